"""Write the report of a search: `report.html` and `report.md` in a folder."""

from __future__ import annotations

from pathlib import Path

from orchestrator.files import write_atomic
from orchestrator.folders import SearchFolder
from orchestrator.report.attention import When, draw_winner
from orchestrator.report.effect_figures import importance_bars, marginal_effects
from orchestrator.report.effects import find_effects
from orchestrator.report.material import read_material
from orchestrator.report.page import build_page
from orchestrator.report.summary import summary
from orchestrator.report.trial_figures import cost, learning_curves, scatter, timeline
from orchestrator.results import SCHEMA_VERSION, Record, SearchState

FOLDER, PAGE, SUMMARY = "report", "report.html", "report.md"


class Report(Record):
    """Where a search's report is.

    Args:
        attention: why the winner's attention picture is left out; None where it is there.
    """

    schema_version: int = SCHEMA_VERSION
    name: str
    page: str
    summary: str
    attention: str | None


def write_report(
    folder: SearchFolder,
    tracking_uri: str,
    *,
    page: Path | None = None,
    attention: When = "small",
    state: SearchState | None = None,
) -> Report:
    """Write the page and the summary, each whole or not at all.

    Args:
        page: the HTML file; default in the search's folder. The summary stands beside it. Where
            this names the summary, with `.md`, the page stands beside that as `.html`.
        attention: when to load the base model for the winner's attention picture.
        state: how the search ended, where its driver asks.

    Raises:
        SearchNotFoundError, LedgerError, EventLogError: for a search that cannot be read.
    """
    page = page or folder.path / FOLDER / PAGE
    markdown = page.suffix.lower() == ".md"
    page, beside = (
        (page.with_suffix(".html"), page) if markdown else (page, page.with_suffix(".md"))
    )
    material = read_material(folder, tracking_uri, state)
    effects = find_effects(material)
    figures = {
        "scatter": scatter(material),
        "cost": cost(material),
        "importance": importance_bars(effects),
        "effects": marginal_effects(effects),
        "curves": learning_curves(material),
        "timeline": timeline(material),
    }
    picture = draw_winner(folder, material.result, attention)
    page.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(page, build_page(material, effects, figures, picture).encode())
    write_atomic(beside, summary(material, effects).encode())
    return Report(
        name=folder.name,
        page=str(page),
        summary=str(beside),
        attention=picture if isinstance(picture, str) else None,
    )
