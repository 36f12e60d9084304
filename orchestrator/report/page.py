"""The report as one HTML page: no script, and nothing that it would fetch.

The policy in its head forbids both, so that a name or a row that looks like markup stays text
even where somebody forgot to escape it.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from orchestrator.ledger import Role
from orchestrator.report.attention import Picture
from orchestrator.report.confirmed import Confirmed, ConfirmedArm
from orchestrator.report.effects import Effects
from orchestrator.report.material import Material
from orchestrator.report.summary import (
    CHAMPION,
    UNCONFIRMED,
    columns,
    cut_early,
    importance_words,
    interval,
    number,
    standing,
)
from orchestrator.report.words import FIGURES
from orchestrator.results import SearchResult, TrialRecord

_TOP = 10
_MOST_TEXT = 600  # characters of a row
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
       color: #1a1a1a; background: #fff; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.4rem; }
table { border-collapse: collapse; font-size: 0.9rem; margin: 0.8rem 0; }
th, td { padding: 0.2rem 0.45rem; border-bottom: 1px solid #ddd; text-align: right; }
th:nth-child(2), td:nth-child(2) { text-align: left; min-width: 11rem; overflow-wrap: anywhere; }
tr.best { background: #e6f5ef; } code { background: #f3f3f3; overflow-wrap: anywhere; }
figure { margin: 0.5rem 0; } figure svg, figure img { max-width: 100%; height: auto; }
dl { font-size: 0.9rem; } dt { font-weight: 600; float: left; clear: left; width: 9.5rem; }
dd { margin-left: 9.5rem; } .plain { color: #555; } .wide { overflow-x: auto; }
"""


def build_page(
    material: Material,
    effects: Sequence[Effects],
    figures: Mapping[str, str | None],
    picture: Picture | str,
) -> str:
    """The whole page.

    Args:
        figures: name to `<svg>`; None for one that there is nothing to draw for.
        picture: the winner's attention, or why there is none.
    """
    result = material.result
    champion = None if material.confirmed is None else material.confirmed.champion
    body = [
        f"<h1>{escape(result.name)}</h1>",
        *_champion(champion),
        _winner(result, champion),
        *_confirmed(material.confirmed),
        "<h2>The best, and the baselines</h2>",
        *_trials(result, champion),
        *_section("scatter", figures["scatter"], "both scores were never measured together"),
        *_section("cost", figures["cost"], "no trial has a score and a cost yet"),
        *_section(
            "importance",
            figures["importance"],
            "no way of looking has enough trials",
            [importance_words(found) for found in effects],
        ),
        *_section("effects", figures["effects"], "no axis has two values yet"),
        *_section("curves", figures["curves"], "no trial has reported yet"),
        *_section("timeline", figures["timeline"], "no trial has begun yet", [cut_early(result)]),
        *_attention(picture),
        _footer(result),
    ]
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width">',
            f"<title>{escape(result.name)}: latentune report</title>",
            f"<style>{_STYLE}</style></head><body>",
            *body,
            "</body></html>\n",
        ]
    )


def _champion(champion: ConfirmedArm | None) -> Iterable[str]:
    if champion is not None:
        yield f"<p><b>{escape(champion.strategy)}</b> {CHAMPION}</p>"


def _winner(result: SearchResult, champion: ConfirmedArm | None) -> str:
    if result.best is None:
        return "<p>No trial has run to the full budget yet, so nothing can be chosen.</p>"
    best = next(trial for trial in result.trials if trial.uid == result.best)
    name = escape(best.strategy)
    return (
        f"<p>{name if champion else f'<b>{name}</b>'} {standing(champion)} of "
        f"{len(result.trials)} trials by "
        f"{escape(result.objective)}: {number(best, result.objective)} (trial {best.number}). "
        f"{escape(result.summary or '')}</p>"
    )


def _confirmed(confirmed: Confirmed | None) -> Iterable[str]:
    if confirmed is None:
        yield f"<p>{escape(UNCONFIRMED.replace('`', ''))}</p>"
        return
    yield "<h2>Confirmed on data that the search never saw</h2>"
    yield "".join(f"<p>{escape(line)}</p>" for line in confirmed.verdict)
    rows = [
        [
            arm.control or "candidate",
            arm.strategy,
            f"{arm.latents_per_row:.1f}",
            "-" if arm.search_score is None else f"{arm.search_score:.3f}",
            *(interval(arm, metric) for metric in confirmed.metrics),
        ]
        for arm in confirmed.arms
    ]
    heads = ["", "strategy", "latents per row", "in the search", *confirmed.metrics]
    yield _table(heads, rows, best=[arm is confirmed.champion for arm in confirmed.arms])
    yield "".join(f"<p class=plain>{escape(note)}</p>" for note in confirmed.notes)


def _trials(result: SearchResult, champion: ConfirmedArm | None) -> Iterable[str]:
    """Validation scores; marked is what is recommended: the champion's trials, else the best."""
    marked = (result.best,) if champion is None else champion.search_trials
    baselines = result.top(len(result.trials), Role.BASELINE)
    shown = [*result.top(_TOP), *baselines]
    shown += [trial for trial in result.trials if trial.uid in marked and trial not in shown]
    metrics = columns(result)
    if champion is not None:
        yield "<p class=plain>Marked: the champion's configuration, as the search scored it.</p>"
    yield _table(
        ["trial", "strategy", *metrics, "steps", "state", "role"],
        [_row(trial, metrics) for trial in shown],
        best=[trial.uid in marked for trial in shown],
    )


def _row(trial: TrialRecord, metrics: Sequence[str]) -> list[str]:
    scores = [number(trial, metric) for metric in metrics]
    return [
        str(trial.number),
        trial.strategy,
        *scores,
        str(trial.step),
        str(trial.status),
        str(trial.role),
    ]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], best: Sequence[bool] = ()) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    lines = [f"<div class=wide><table><tr>{head}</tr>"]
    for place, row in enumerate(rows):
        mark = " class=best" if best and best[place] else ""
        lines.append(f"<tr{mark}>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>")
    return "".join(lines) + "</table></div>"


def _section(name: str, svg: str | None, missing: str, lines: Sequence[str] = ()) -> Iterable[str]:
    words = FIGURES[name]
    yield f"<h2>{escape(words.title)}</h2>"
    yield "".join(f"<p class=plain>{escape(line)}</p>" for line in lines)
    if svg is None:
        yield f"<p>Not drawn: {escape(missing)}.</p>"
        return
    yield f"<figure id={name} role=img aria-label='{escape(words.title)}'>{svg}</figure>"
    yield _words(name)


def _words(name: str) -> str:
    words = FIGURES[name]
    parts = {
        "What it shows": words.shows,
        "How to read it": words.read,
        "What not to conclude": words.not_conclude,
    }
    listed = "".join(f"<dt>{title}</dt><dd>{escape(text)}</dd>" for title, text in parts.items())
    return f"<dl>{listed}</dl>"


def _attention(picture: Picture | str) -> Iterable[str]:
    yield f"<h2>{escape(FIGURES['attention'].title)}</h2>"
    if isinstance(picture, str):
        yield f"<p>Not drawn: {escape(picture)}.</p>"
        return
    text = picture.text if len(picture.text) <= _MOST_TEXT else f"{picture.text[:_MOST_TEXT]}…"
    data = base64.b64encode(picture.png).decode()
    yield (
        f"<p class=plain>{escape(picture.whose)}: a row of {escape(picture.split)}, "
        f"{picture.tokens} verbal tokens of which "
        f"{picture.query_tokens} are the query: <code>{escape(text)}</code></p>"
    )
    yield f"<figure id=attention><img alt='heatmaps' src='data:image/png;base64,{data}'></figure>"
    yield _words("attention")


def _footer(result: SearchResult) -> str:
    return (
        "<h2>Choose</h2><p>Each trial is a run in MLflow (<code>latentune ui</code>), with its "
        f"latents. <code>latentune pull {escape(result.name)}@trial-N --to DIR</code> takes any; "
        f"<code>latentune pull {escape(result.name)} --to DIR</code> takes the version that the "
        "alias <code>champion</code> points to.</p>"
    )
