"""What `latentune list` and `latentune spaces` show."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from orchestrator.config import load_search
from orchestrator.console import print_line
from orchestrator.folders import SearchFolder
from orchestrator.ledger import read_ledger
from orchestrator.results import SCHEMA_VERSION, Record, SearchState, best_trial, saved_state
from search_spaces import PRESETS, SpaceError, sample_configs
from search_spaces.errors import Problem, did_you_mean
from trainable.errors import LatentuneError
from trainable.trial import TrialConfig

logger = logging.getLogger(__name__)

SAMPLES = 5


class SearchLine(Record):
    """One search in a listing."""

    name: str
    state: SearchState | Literal["unreadable"]
    trials: int
    objective: str
    best_strategy: str | None
    best_score: float | None


class SearchListing(Record):
    """All searches under a home."""

    schema_version: int = SCHEMA_VERSION
    searches: list[SearchLine]


class SpaceRecord(Record):
    """A space: `size` is null where it is infinite."""

    schema_version: int = SCHEMA_VERSION
    name: str
    about: str
    size: int | None
    tree: str
    samples: list[dict[str, Any]]


class SpaceListing(Record):
    """All presets."""

    schema_version: int = SCHEMA_VERSION
    spaces: dict[str, str]


def list_searches(folders: Sequence[SearchFolder]) -> SearchListing:
    """Read one line per search."""
    return SearchListing(searches=[_line_or_trouble(folder) for folder in folders])


def _line_or_trouble(folder: SearchFolder) -> SearchLine:
    try:
        return _line(folder)
    except LatentuneError as error:  # one damaged search must not hide the others
        logger.warning("%s", error)
        return SearchLine(
            name=folder.name, state="unreadable", trials=0, objective="-",
            best_strategy=None, best_score=None,
        )  # fmt: skip


def _line(folder: SearchFolder) -> SearchLine:
    folder.check_own()
    config = load_search(folder.config)
    trials = read_ledger(folder.path, config.name)
    best = best_trial(trials, config.objective)
    return SearchLine(
        name=config.name,
        state=saved_state(folder, trials),
        trials=len(trials),
        objective=config.objective,
        best_strategy=None if best is None else best.config.strategy.short_name,
        best_score=None if best is None else best.metrics[config.objective],
    )


def print_list(console: Console, listing: SearchListing, home: Path) -> None:
    """Searches as a table."""
    if not listing.searches:
        print_line(console, f"no searches under {home}")
        return
    table = Table("search", "state", "trials", "best strategy", "objective", "score")
    for column in table.columns:
        column.overflow = "fold"
    for line in listing.searches:
        score = "-" if line.best_score is None else f"{line.best_score:.3f}"
        best = line.best_strategy or "-"
        table.add_row(line.name, line.state, str(line.trials), best, line.objective, score)
    console.print(table)


def list_spaces() -> SpaceListing:
    """The presets and what each is for."""
    return SpaceListing(spaces={name: _about(name) for name in PRESETS})


def print_spaces(console: Console, listing: SpaceListing) -> None:
    """Presets as a table."""
    table = Table("space", "what it searches")
    for name, about in listing.spaces.items():
        table.add_row(name, about)
    console.print(table)


def describe_space(name: str) -> SpaceRecord:
    """A preset's tree, size and samples. Raises SpaceError for an unknown name."""
    if name not in PRESETS:
        remedy = did_you_mean(name, PRESETS)
        raise SpaceError([Problem(path="spaces", wrong=f"there is no {name!r}", remedy=remedy)])
    space = PRESETS[name]()
    size = space.size()
    return SpaceRecord(
        name=name,
        about=_about(name),
        size=None if math.isinf(size) else int(size),
        tree=str(space),
        samples=list(sample_configs(space, SAMPLES)),
    )


def print_space(console: Console, space: SpaceRecord) -> None:
    """A space for people."""
    size = "infinite" if space.size is None else str(space.size)
    lines = [f"{space.name}: {space.about}", f"size: {size}", "", space.tree, "", "samples:"]
    for sample in space.samples:
        config = TrialConfig.from_dict(sample)
        lines.append(
            f"  {config.strategy.short_name}  init {config.init.kind}  lr {config.optim.lr:.3g}"
        )
    print_line(console, "\n".join(lines))


def _about(name: str) -> str:
    doc = PRESETS[name].__doc__ or ""
    return doc.strip().splitlines()[0]
