"""What is tried, or known, before a sampler chooses anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.config import SearchConfig
from orchestrator.errors import ConfigError, SearchNotFoundError
from orchestrator.files import write_atomic
from orchestrator.first_trials import learn_from_earlier, start_points
from orchestrator.ledger import Ledger
from tests.unit.ledgers import (
    NAME,
    OBJECTIVE,
    RUNGS,
    open_ledger,
    search_config,
    search_folder,
)
from trainable.trial import TrialConfig


def config(**changed: Any) -> SearchConfig:
    return search_config(name="second", sampler={"kind": "tpe", "warm_start": [NAME]}, **changed)


@pytest.fixture
def earlier(tmp_path: Path) -> Ledger:
    """A search with a baseline, two complete trials and one that still runs."""
    ledger = open_ledger(search_folder(tmp_path).path, baselines=1, trials=3, stopping="none")
    write_atomic(search_folder(tmp_path).config, search_config().to_yaml().encode())
    for number in range(4):
        assert ledger.ask() is not None
        if number < 3:
            ledger.report(number, RUNGS[-1], {OBJECTIVE: number / 10})
    return ledger


def test_complete_trials_of_the_space_are_learned_once(tmp_path: Path, earlier: Ledger) -> None:
    for _ in range(2):
        ledger = open_ledger(tmp_path / "second")
        assert learn_from_earlier(ledger.study, config(), tmp_path) == 2
    learned = ledger.study.get_trials(deepcopy=False)
    assert [trial.values for trial in learned] == [[0.1], [0.2]]
    assert [trial.params for trial in learned] == [dict(earlier.trial(n).params) for n in (1, 2)]
    assert ledger.all() == [], "history is no trial of this search"
    first = ledger.ask()
    assert first is not None and first.number == 2


def test_a_ledger_goes_on_behind_its_history(tmp_path: Path, earlier: Ledger) -> None:
    learn_from_earlier(open_ledger(tmp_path / "second").study, config(), tmp_path)
    ledger = open_ledger(tmp_path / "second", trials=2)
    numbers = []
    while (trial := ledger.ask()) is not None:
        numbers.append(trial.number)
        ledger.report(trial.number, RUNGS[-1], {OBJECTIVE: 0.5})
    assert numbers == [2, 3]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"objective": "val_id/exact_match"}, f"its objective was {OBJECTIVE}"),
        ({"tradeoffs": ["val_id/exact_match"]}, f"its objective was {OBJECTIVE}"),
        ({"space": {"preset": "quick"}}, "it searched another space"),
        ({"name": NAME}, "a search cannot begin with itself"),
    ],
)
def test_what_means_something_else_is_refused(
    tmp_path: Path, earlier: Ledger, changed: dict[str, Any], message: str
) -> None:
    asked = search_config(
        **{"name": "second", "sampler": {"kind": "tpe", "warm_start": [NAME]}, **changed}
    )
    with pytest.raises(ConfigError, match=message):
        learn_from_earlier(open_ledger(tmp_path / "second").study, asked, tmp_path)


def test_a_name_that_no_search_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SearchNotFoundError):
        learn_from_earlier(open_ledger(tmp_path / "second").study, config(), tmp_path)


def test_start_points_are_the_paper_s_that_lie_in_the_space() -> None:
    search = search_config(space={"preset": "quick"})
    points, space = start_points(search), search.space.build()
    assert len(points) == 6
    assert {point["optim.lr"] for point in points} == {TrialConfig().optim.lr}
    assert all(set(point) <= {axis.name for axis in space.axes()} for point in points)


@pytest.mark.parametrize(
    "changed",
    [
        {"space": {"preset": "quick", "start_points": False}},
        {"space": {"preset": "positions"}, "sampler": {"kind": "grid"}},
        {"space": {"axes": {"strategy": {"triggers": {}}}}},
    ],
)
def test_some_searches_have_none(changed: dict[str, Any]) -> None:
    assert start_points(search_config(**changed, budget={"trials": 1, "steps": 8})) == []
