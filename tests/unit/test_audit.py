"""The audit: a sound search passes, and each thing that must not happen is found."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.assignment import Assignment, DataSource, TrialReport
from orchestrator.conductor import Conductor, EngineInfo, Quiet
from orchestrator.config import SearchConfig
from orchestrator.events import EventLog
from orchestrator.folders import SearchFolder
from orchestrator.opening import open_ledger
from orchestrator.study.audit import audit_search
from tests.unit.ledgers import OBJECTIVE, empty_study, search_config, search_folder

SOURCE = DataSource({"kind": "generation"}, 0, None, "refuse", "/nowhere")


class Driver:
    """Works a search off without an engine; runs two trials at a time."""

    def __init__(self, folder: SearchFolder, config: SearchConfig) -> None:
        self.folder = folder
        self.ledger = open_ledger(config, folder)
        self.events = EventLog(folder.events)
        self.conductor = Conductor(
            config, folder, self.ledger, self.events, EngineInfo("e", {}), SOURCE, Quiet()
        )

    def run(self, reports: int) -> bool:
        """Take in so many reports; returns whether the search is over."""
        running: list[tuple[Assignment, int]] = []
        for _ in range(reports):
            while len(running) < 2 and (given := self.conductor.assign()) is not None:
                running.append((given, given.start_step - (not given.reported)))
            if not running:
                ended = {"state": "complete", "trials": {}, "result": {}}
                self.events.append("search_ended", ended)
                return True
            given, step = running.pop(0)
            step = next(rung for rung in given.rungs if rung > step)
            score = (given.number * 7 % 5) / 10 + step / 1000
            metrics = {OBJECTIVE: float("nan") if given.number == 2 else score}
            told = TrialReport(given.uid, given.number, given.attempt, step, metrics)
            if self.conductor.on_report(told):
                running.append((given, step))
        return False


def search(home: Path, lifetimes: list[int], trials: int = 8) -> SearchFolder:
    """A search whose drivers are killed after so many reports each."""
    folder, config = search_folder(home), search_config(budget={"trials": trials, "steps": 8})
    folder.path.mkdir(parents=True)
    folder.study.write_bytes(empty_study())
    folder.config.write_text(config.to_yaml())
    for reports in [*lifetimes, 1000]:
        driver = Driver(folder, config)
        driver.conductor.settle()
        over = driver.run(reports)
        driver.events.close()
        driver.ledger.close()
    assert over
    return folder


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> SearchFolder:
    return search(tmp_path_factory.mktemp("sound"), [1, 2, 3, 5])


@pytest.fixture
def folder(sound: SearchFolder, tmp_path: Path) -> Iterator[SearchFolder]:
    """A copy to spoil."""
    copy = search_folder(tmp_path)
    copy.path.mkdir(parents=True)
    for path in (sound.study, sound.config, sound.events):
        (copy.path / path.name).write_bytes(path.read_bytes())
    yield copy


def test_however_often_its_driver_was_killed_a_search_is_sound(sound: SearchFolder) -> None:
    assert audit_search(sound) == []


def test_its_draws_are_those_of_a_search_that_nobody_killed(
    sound: SearchFolder, tmp_path: Path
) -> None:
    whole = search(tmp_path, [])
    assert audit_search(whole) == []
    config = search_config(budget={"trials": 8, "steps": 8})
    both = [[t.params for t in open_ledger(config, one).all()] for one in (sound, whole)]
    assert both[0] == both[1]
    assert len(both[0]) == 8


def sql(statement: str) -> Callable[[SearchFolder], None]:
    def spoil(folder: SearchFolder) -> None:
        with sqlite3.connect(folder.study) as connection:
            assert connection.execute(statement).rowcount >= 1
        connection.close()

    return spoil


def without_event(type_: str) -> Callable[[SearchFolder], None]:
    """The log as it would be if one event had never been written."""

    def spoil(folder: SearchFolder) -> None:
        with EventLog(folder.events) as log:
            kept = list(log.read())
        folder.events.unlink()
        gone = next(event for event in kept if event.type == type_)
        with EventLog(folder.events) as log:
            for event in kept:
                if event is not gone:
                    log.append(event.type, event.payload, event.trial_uid, event.attempt)  # type: ignore[arg-type]

    return spoil


def told_twice(folder: SearchFolder) -> None:
    with EventLog(folder.events) as log:
        end = next(event for event in log.read() if event.type == "trial_ended")
        log.append("trial_ended", end.payload, end.trial_uid, end.attempt)


ATTRIBUTE = (
    "UPDATE trial_user_attributes SET value_json = '{value}' WHERE key = '{key}' AND {where}"
)
PRUNED = "trial_id = (SELECT min(trial_id) FROM trials WHERE state = 'PRUNED')"


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (sql("UPDATE trial_params SET param_value = 0.03 WHERE trial_id = 2"), "seed of its draw"),
        (
            sql(ATTRIBUTE.format(key="status", value='"stopped"', where=PRUNED)),
            "recorded running, and the reports up to there say pruned",
        ),
        (
            sql(
                "UPDATE trial_intermediate_values SET intermediate_value = 99 WHERE "
                "step = 2 AND trial_id = 1"
            ),
            "say",
        ),
        (sql(ATTRIBUTE.format(key="order", value='{"2": 0}', where="trial_id = 2")), "gaps"),
        (
            sql(
                "UPDATE trial_values SET value = NULL, value_type = 'INF_POS' WHERE "
                "trial_value_id = 1"
            ),
            "was told",
        ),
        (sql("UPDATE trials SET state = 'RUNNING' WHERE state = 'COMPLETE'"), "are running"),
        (without_event("trial_ended"), "its end was told 0 times"),
        (without_event("trial_report"), "out of the log's order"),
        (told_twice, "its end was told 2 times"),
        (sql("DELETE FROM trials WHERE trial_id = 8"), "8 trials were wanted, and 7 asked"),
    ],
    ids=[
        "draw",
        "decision",
        "score",
        "order",
        "infinite",
        "running",
        "untold",
        "unreported",
        "twice",
        "missing",
    ],
)
def test_what_must_not_happen_is_found(
    folder: SearchFolder, spoil: Callable[[SearchFolder], None], found: str
) -> None:
    assert audit_search(folder) == []
    spoil(folder)
    problems = audit_search(folder)
    assert any(found in problem for problem in problems), problems
