"""Requests to a driver: files that it polls."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.control import Requests
from orchestrator.folders import SearchFolder


@pytest.fixture
def requests(tmp_path: Path) -> Requests:
    return Requests(SearchFolder.of(tmp_path, "tiny"))


def test_nothing_is_asked_where_nobody_asked(requests: Requests) -> None:
    assert not requests.search()
    assert requests.trials() == []
    requests.clear()


def test_a_search_stays_asked_to_stop_until_cleared(requests: Requests) -> None:
    requests.stop_search()
    requests.stop_search()
    assert requests.search()
    assert requests.search()
    assert requests.trials() == []
    requests.clear()
    assert not requests.search()


def test_each_trial_is_named_once_until_it_was_answered(requests: Requests) -> None:
    for number in (3, 12, 3):
        requests.stop_trial(number)
    assert sorted(requests.trials()) == [3, 12]
    assert sorted(requests.trials()) == [3, 12]
    assert not requests.search()
    requests.clear()
    assert requests.trials() == []


def test_a_new_run_is_not_to_pause_but_still_to_stop_the_trial(requests: Requests) -> None:
    requests.forget_search()
    requests.stop_trial(3)
    requests.stop_search()
    requests.forget_search()
    assert not requests.search()
    assert requests.trials() == [3]


def test_a_file_of_somebody_else_is_no_request(requests: Requests, tmp_path: Path) -> None:
    requests.stop_trial(3)
    (tmp_path / "searches" / "tiny" / "control" / "stop-trial-x~").touch()
    assert requests.trials() == [3]
