"""The report: what it is made of, what it says, and that nothing in it can run or be fetched."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.confirmation_record import ArmRecord, ConfirmationRecord, ScoreRecord
from orchestrator.events import Event, EventLog
from orchestrator.files import write_atomic
from orchestrator.folders import SearchFolder
from orchestrator.ledger import Role
from orchestrator.report.attention import draw_winner
from orchestrator.report.confirmed import Confirmed, ConfirmedArm, ConfirmedScore, shown
from orchestrator.report.effects import LEAST_TRIALS, bootstrap, find_effects, levels_of
from orchestrator.report.material import Material, read_material, read_stories
from orchestrator.report.page import build_page
from orchestrator.report.summary import code, note, summary
from orchestrator.report.trial_figures import pareto_front, scatter
from orchestrator.report.words import FIGURES
from orchestrator.report.writing import write_report
from orchestrator.results import EXTRA_TOKENS
from tests.unit.ledgers import RUNGS, open_ledger, search_config, search_folder
from tests.unit.records import OBJECTIVE, record, result

TRIALS = 12
HOSTILE = "</svg><script>alert(1)</script><img src=http://evil.example/x>$\\frac|`"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> SearchFolder:
    return tell_search(tmp_path_factory.mktemp("home"))


def tell_search(home: Path) -> SearchFolder:
    """A search of a baseline and twelve trials, of which early stopping cut some."""
    found = search_folder(home)
    ledger = open_ledger(found.path, baselines=1, trials=TRIALS)
    write_atomic(
        found.config, search_config(budget={"trials": TRIALS, "steps": 8}).to_yaml().encode()
    )
    with EventLog(found.events) as log:
        log.append("search_started", {})
        while (trial := ledger.ask()) is not None:
            uid = found.uid(trial.number)
            log.append("trial_started", {"number": trial.number}, uid, 1)
            for step in RUNGS:
                score = trial.params.get("optim.lr", 0.0) * step
                metrics = {OBJECTIVE: score, "val_id/exact_match": 2 * score}
                metrics[EXTRA_TOKENS] = 10.0 + trial.number
                payload = {"step": step, "metrics": metrics, "curve": [[step, 1 / step]]}
                log.append("trial_report", payload, uid, 1)
                if ledger.report(trial.number, step, metrics) != "running":
                    break
            log.append("trial_ended", {"state": "complete"}, uid, 1)
    return found


@pytest.fixture(scope="module")
def material(folder: SearchFolder) -> Material:
    return read_material(folder, "sqlite:////nowhere.db", "complete")


def event(seq: int, kind: str, uid: str, **payload: Any) -> Event:
    return Event(seq=seq, time=100.0 + seq, trial_uid=uid, attempt=1, type=kind, payload=payload)


def test_a_step_that_was_done_again_counts_once_and_each_start_is_a_bar() -> None:
    report = {"step": 2, "metrics": {OBJECTIVE: 0.5, "nan": None}, "curve": [[1, 3.0], [2, None]]}
    stories = read_stories(
        [
            event(0, "trial_started", "a"),
            event(2, "trial_report", "a", **report),
            event(5, "trial_started", "a"),
            event(8, "trial_report", "a", **report),
            event(9, "trial_ended", "a"),
        ]
    )
    assert stories["a"].scores == {2: {OBJECTIVE: 0.5}}
    assert stories["a"].losses == {1: 3.0}
    assert stories["a"].attempts == [(0.0, 2.0), (5.0, 9.0)]


def test_effects_look_at_all_trials_early_and_at_finished_ones_late(material: Material) -> None:
    early, late = find_effects(material)
    assert early.trials == TRIALS
    complete = [t for t in material.result.trials if t.status == "complete"]
    assert late.trials == len([t for t in complete if t.role is Role.SEARCH]) < LEAST_TRIALS
    assert early.importance == pytest.approx({"optim.lr": 1.0})
    assert late.importance == {}
    means = [level.mean for level in early.axes["optim.lr"]]
    assert means == sorted(means)  # the score is the rate times the step
    assert sum(len(level.scores) for level in early.axes["optim.lr"]) == TRIALS


def test_levels_are_values_or_ranges_and_need_three_trials_for_an_interval() -> None:
    few = levels_of([4, 2, 4, 4], [0.4, 0.2, 0.5, 0.6])
    assert [(level.label, len(level.scores)) for level in few] == [("2", 1), ("4", 3)]
    assert few[0].low is None
    assert few[1].low is not None and few[1].high is not None
    assert few[1].low < few[1].mean < few[1].high
    many = levels_of(list(range(30)), [float(n) for n in range(30)])
    assert [len(level.scores) for level in many] == [10, 10, 10]
    words = levels_of(["b", "a", "b"], [1.0, 2.0, 3.0])
    assert [(level.label, level.mean) for level in words] == [("a", 2.0), ("b", 2.0)]
    assert [level.label for level in levels_of([True, False], [1.0, 0.0])] == ["False", "True"]


def test_the_bootstrap_interval_has_its_textbook_width() -> None:
    values = np.random.default_rng(1).normal(size=400)
    low, high = bootstrap(values)
    half = 1.96 * values.std() / 20
    assert (values.mean() - low, high - values.mean()) == pytest.approx((half, half), rel=0.1)


def test_the_front_holds_what_nothing_beats_at_its_price() -> None:
    points = [(0, 0.1, 5.0), (1, 0.4, 9.0), (2, 0.3, 9.0), (3, 0.4, 20.0), (4, 0.9, 50.0)]
    trials = [record(n, "s", score, metrics={EXTRA_TOKENS: cost}) for n, score, cost in points]
    assert [trial.number for trial in pareto_front(trials, OBJECTIVE)] == [0, 1, 4]
    flat = [record(n, "s", None, metrics={EXTRA_TOKENS: c, "val_id/nll": v}) for n, v, c in points]
    assert [trial.number for trial in pareto_front(flat, "val_id/nll")] == [0]


class Tags(HTMLParser):
    """What a page would run or fetch."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.scripts = 0
        self.fetched: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag in ("script", "iframe", "object", "link")
        for name, value in attrs:
            if name in ("src", "href", "xlink:href") and not (value or "").startswith(
                ("#", "data:")
            ):
                self.fetched.append(value or "")


def test_the_page_is_one_file_that_runs_nothing_and_fetches_nothing(
    folder: SearchFolder, tmp_path: Path
) -> None:
    written = write_report(folder, "sqlite:////nowhere.db", page=tmp_path / "a" / "r.html")
    page = Path(written.page).read_text()
    tags = Tags(page)
    assert (tags.scripts, tags.fetched) == (0, [])
    assert "default-src 'none'" in page
    assert page.count("<svg") == page.count("<figure") == 6
    assert "no complete artifact" in page or "Not drawn: it could not be drawn" in page
    assert written.attention is not None  # these trials left no artifact folder
    assert Path(written.summary) == tmp_path / "a" / "r.md"
    for words in FIGURES.values():
        assert words.title in page.replace("&#x27;", "'")
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))  # one figure's clipping is not another's


def hostile(material: Material) -> Material:
    trials = [t.model_copy(update={"strategy": HOSTILE}) for t in material.result.trials]
    arm = ConfirmedArm(HOSTILE, HOSTILE, 0.5, {HOSTILE: ConfirmedScore(0.1, 0.0, 0.2)}, HOSTILE)
    confirmed = Confirmed(None, (HOSTILE,), (HOSTILE,), (arm,))
    update = {"trials": trials, "summary": HOSTILE}
    shown = material.result.model_copy(update=update)
    return Material(
        result=shown,
        stopping_metric=OBJECTIVE,
        rungs=material.rungs,
        stories=material.stories,
        frozen=material.frozen,
        confirmed=confirmed,
    )


def test_names_that_look_like_markup_stay_text(material: Material) -> None:
    nasty = hostile(material)
    figures: dict[str, str | None] = dict.fromkeys(FIGURES)
    figures["scatter"] = scatter(nasty)
    tags = Tags(build_page(nasty, [], figures, HOSTILE))
    assert (tags.scripts, tags.fetched) == (0, [])
    text = summary(nasty, [])
    assert "<script" not in re.sub(r"`[^`]*`", "", text)


def test_a_note_says_what_is_best_and_whether_it_was_confirmed() -> None:
    shown = result(
        [record(0, "none", 0.1, role=Role.BASELINE), record(1, "start4", 0.5)], best="tiny-1"
    )
    text = note(shown, None)
    assert "**`start4`** is the best of 2 trials" in text
    assert "Not confirmed" in text
    assert "| 0 | `none` (baseline) | 0.100 |" in text
    told = note(shown, Confirmed("tiny-1", ("better than none by 12 points",), (), ()))
    assert "better than none by 12 points" in told
    assert "Not confirmed" not in told
    assert "nothing can be chosen" in note(result([]), None)


def test_a_name_in_markdown_cannot_leave_its_cell() -> None:
    assert code("a|b`c\x1b[31m") == "`a\\|b'c?[31m`"


def confirmation(champion: str | None, trial: str) -> ConfirmationRecord:
    score = ScoreRecord(
        metric="test_ood/exact_match", distance=None, rows=9, mean=0.4, low=0.3, high=0.5
    )
    one = ArmRecord(
        key="k", strategy="every4x2", config={}, rank=2, search_score=0.5, search_trials=[trial],
        control=None, latents=2, latents_per_row=6.0, uids=["s-c1"], scores=(score,),
        left_out=None if champion else "too long",
    )  # fmt: skip
    return ConfirmationRecord(
        search="s", inputs="", state="confirmed" if champion else "nothing confirmed",
        objective=OBJECTIVE, champion=champion, champion_uid=champion and "s-c1", artifact=None,
        seeds=5, steps=8, arms=[one], verdict=["better"],
    )  # fmt: skip


def test_a_confirmation_is_shown_where_there_is_one() -> None:
    assert shown(None) is None
    found = shown(confirmation(None, "s-1"))
    assert found is not None
    assert (found.champion_uid, found.champion) == (None, None)
    assert found.metrics == ["test_ood/exact_match"]
    assert found.arms[0].scores["test_ood/exact_match"] == (0.4, 0.3, 0.5)
    assert found.arms[0].words == "too long"


def test_a_page_shows_the_champion_where_it_is_not_the_search_s_best(material: Material) -> None:
    best = material.result.best
    other = next(t for t in material.result.trials if t.uid != best and t.role is Role.SEARCH)
    confirmed = shown(confirmation("k", other.uid))
    told = replace(material, confirmed=confirmed)
    figures: dict[str, str | None] = dict.fromkeys(FIGURES)
    page = build_page(told, [], figures, "none")
    first = page[page.index("<p>") :]
    assert first.startswith("<p><b>every4x2</b> is the champion: confirmed on data")
    assert "was the search&#x27;s own choice" in page or "was the search's own choice" in page
    marked = re.findall(r"<tr class=best>(.*?)</tr>", page)
    assert len(marked) == 2  # among the confirmed, and among the trials
    assert f"<td>{other.number}</td>" in marked[1]
    text = note(material.result, confirmed)
    assert text.startswith("**`every4x2`** is the champion: confirmed on data")
    assert "**" not in text.splitlines()[2]  # the search's own choice is no headline


def test_the_picture_is_the_champion_s(folder: SearchFolder, material: Material) -> None:
    record = confirmation("k", "s-1")
    looked = material.result.model_copy(update={"confirmation": record})
    why = draw_winner(folder, looked, "small")
    assert isinstance(why, str)
    assert "s-c1" in why  # whose folder is missing here


@pytest.mark.parametrize("name", ["r.md", "r.html", "r.MD"])
def test_page_and_summary_are_two_files(folder: SearchFolder, tmp_path: Path, name: str) -> None:
    asked = tmp_path / name
    written = write_report(folder, "sqlite:////nowhere.db", page=asked, attention="never")
    assert written.page != written.summary
    assert str(asked) in (written.page, written.summary)
    assert Path(written.page).read_text().startswith("<!doctype html>")
    assert Path(written.summary).read_text().startswith("# ")
