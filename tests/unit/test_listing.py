"""`latentune list` and `latentune spaces`."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.folders import all_searches
from orchestrator.listing import (
    SAMPLES,
    describe_space,
    list_searches,
    list_spaces,
    print_list,
    print_space,
    print_spaces,
)
from search_spaces import PRESETS, SpaceError
from tests.unit.ledgers import (
    OBJECTIVE,
    RUNGS,
    abandoned_search,
    open_ledger,
    search_config,
    search_folder,
)
from trainable.trial import TrialConfig


@pytest.fixture
def console() -> Console:
    return Console(width=100, record=True, file=io.StringIO())


def text_of(console: Console) -> str:
    return console.export_text()


def test_no_searches_are_an_empty_list(tmp_path: Path, console: Console) -> None:
    listing = list_searches(all_searches(tmp_path))
    assert json.loads(listing.model_dump_json()) == {"schema_version": 1, "searches": []}
    print_list(console, listing, tmp_path)
    assert text_of(console) == f"no searches under {tmp_path}\n"


def test_a_search_is_one_line(tmp_path: Path, console: Console) -> None:
    folder = search_folder(tmp_path)
    ledger = open_ledger(folder.path)
    folder.config.write_text(search_config().to_yaml())
    for score in (0.25, 0.5):
        trial = ledger.ask()
        assert trial is not None
        ledger.report(trial.number, RUNGS[-1], {OBJECTIVE: score})
    assert ledger.ask() is not None
    listing = list_searches(all_searches(tmp_path))
    assert [line.model_dump() for line in listing.searches] == [
        {
            "name": "tiny",
            "state": "interrupted",
            "trials": 3,
            "objective": OBJECTIVE,
            "best_strategy": "start2",
            "best_score": 0.5,
        }
    ]
    print_list(console, listing, tmp_path)
    shown = text_of(console)
    assert all(part in shown for part in ("tiny", "interrupted", "3", "start2", "0.500"))


def test_a_search_without_a_score_has_none(tmp_path: Path, console: Console) -> None:
    abandoned_search(tmp_path)
    listing = list_searches(all_searches(tmp_path))
    assert (listing.searches[0].best_strategy, listing.searches[0].best_score) == (None, None)
    print_list(console, listing, tmp_path)
    assert " - " in text_of(console)


def test_every_preset_says_what_it_is_for(console: Console) -> None:
    listing = list_spaces()
    assert set(listing.spaces) == set(PRESETS)
    assert all(len(about) > 10 for about in listing.spaces.values())
    print_spaces(console, listing)
    shown = text_of(console)
    assert all(name in shown for name in PRESETS)


@pytest.mark.parametrize(("name", "size"), [("quick", None), ("baselines", 3)])
def test_a_space_shows_its_size_and_samples(name: str, size: int | None, console: Console) -> None:
    space = describe_space(name)
    assert (space.name, space.size, len(space.samples)) == (name, size, SAMPLES)
    for sample in space.samples:
        TrialConfig.from_dict(sample)
    assert json.loads(space.model_dump_json())["schema_version"] == 1
    print_space(console, space)
    shown = text_of(console)
    assert f"size: {size or 'infinite'}" in shown
    assert space.tree in shown


def test_an_unknown_space_names_the_nearest() -> None:
    with pytest.raises(SpaceError, match=r"there is no 'quikc'; did you mean `quick`"):
        describe_space("quikc")
