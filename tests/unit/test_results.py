"""How a search is summed up: the best trial, the order of a table, the JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.driver_lock import driver_lock
from orchestrator.folders import SearchFolder
from orchestrator.ledger import Role, TrialStatus
from orchestrator.results import (
    DataRecord,
    OverlapRecord,
    SearchResult,
    best_trial,
    build_result,
    read_result,
    saved_state,
)
from tests.unit.ledgers import NAME, RUNGS, open_ledger, search_config, search_folder
from tests.unit.records import OBJECTIVE, SPLIT, ledger_trial, record, result


def best_number(*trials: object) -> int | None:
    best = best_trial(trials, OBJECTIVE)  # type: ignore[arg-type]
    return None if best is None else best.number


def test_the_best_trial_ran_to_the_full_budget() -> None:
    cut = ledger_trial(0, 0.9, status=TrialStatus.PRUNED)
    stopped = ledger_trial(1, 0.8, status=TrialStatus.STOPPED)
    failed = ledger_trial(2, None, status=TrialStatus.FAILED)
    assert best_number(cut, stopped, failed) is None
    assert best_number(cut, stopped, failed, ledger_trial(3, 0.1), ledger_trial(4, 0.2)) == 4


def test_a_baseline_may_be_the_best() -> None:
    assert best_number(ledger_trial(0, 0.9, role=Role.BASELINE), ledger_trial(1, 0.2)) == 0


def test_equal_scores_go_to_the_cheaper_then_to_the_earlier_trial() -> None:
    dear, cheap = ledger_trial(0, 0.5, extra=20.0), ledger_trial(1, 0.5, extra=5.0)
    assert best_number(dear, cheap, ledger_trial(2, 0.5, extra=5.0)) == 1
    assert best_number(ledger_trial(4, 0.5), ledger_trial(3, 0.5)) == 3
    assert best_number(dear, ledger_trial(5, 0.5, extra=None)) == 5  # no cost known: none


NLL = "val_id/nll"


def test_less_is_better_where_the_objective_says_so() -> None:
    trials = [ledger_trial(n, None, metrics={NLL: nll}) for n, nll in enumerate((0.5, 0.2, 0.9))]
    best = best_trial(trials, NLL)
    assert best is not None
    assert best.number == 1
    shown = result(
        [record(n, "a", None, metrics={NLL: nll}) for n, nll in enumerate((0.5, 0.2, 0.9))]
        + [record(3, "b", None)],
        objective=NLL,
    )
    assert [trial.number for trial in shown.top(9)] == [1, 0, 2, 3]


def test_the_top_puts_scores_first_and_the_scoreless_last() -> None:
    shown = result(
        [
            record(0, "a", None, "failed"),
            record(1, "b", 0.5, "pruned"),
            record(2, "c", 0.5, "complete", metrics={"cost/extra_tokens_pct": 9.0}),
            record(3, "d", 0.5, "complete", metrics={"cost/extra_tokens_pct": 3.0}),
            record(4, "e", 0.7, "complete"),
            record(5, "f", 0.9, "complete", role=Role.BASELINE),
        ]
    )
    assert [trial.number for trial in shown.top(9)] == [4, 3, 2, 1, 0]
    assert [trial.number for trial in shown.top(2)] == [4, 3]
    assert [trial.number for trial in shown.top(9, Role.BASELINE)] == [5]
    assert shown.counts == {"failed": 1, "pruned": 1, "complete": 4}


def test_a_trial_cut_early_stands_behind_full_ones_of_the_same_score() -> None:
    cheap_cut = record(0, "a", 0.5, "pruned", metrics={"cost/extra_tokens_pct": 0.0})
    full = record(1, "b", 0.5, metrics={"cost/extra_tokens_pct": 50.0})
    assert [trial.number for trial in result([cheap_cut, full]).top(2)] == [1, 0]


def test_json_has_a_schema_version_and_comes_back() -> None:
    shown = result([record(0, "a", 0.5, params={"optim.lr": 0.02})], time=SPLIT)
    data = json.loads(shown.model_dump_json())
    assert data["schema_version"] == 1
    assert data["trials"][0]["status"] == "complete"
    assert data["trials"][0]["params"] == {"optim.lr": 0.02}
    assert SearchResult.model_validate_json(shown.model_dump_json()) == shown


def test_time_outside_the_engine_is_what_remains() -> None:
    assert SPLIT.outside_s == 24.0


def test_a_result_names_the_best_trial_s_artifact_and_words(tmp_path: Path) -> None:
    folder = search_folder(tmp_path)
    built = build_result(
        search_config(),
        folder,
        [ledger_trial(0, 0.1), ledger_trial(1, 0.2)],
        state="complete",
        tracking_uri="sqlite:///x.db",
    )
    assert (built.best, built.artifact) == (f"{NAME}-1", str(folder.artifact(f"{NAME}-1")))
    assert built.summary == "2 latent tokens at the start of the query."


def test_a_result_holds_what_is_known_of_the_data(tmp_path: Path) -> None:
    folder = search_folder(tmp_path)

    def build() -> SearchResult:
        uri = "sqlite:///x.db"
        return build_result(search_config(), folder, [], state="complete", tracking_uri=uri)

    assert build().data is None
    known = DataRecord(
        rows={"train": 9},
        dropped={"train": 1},
        overlap={"val_id": OverlapRecord(prompts=2, rows=1)},
    )
    folder.path.mkdir(parents=True)
    folder.data.write_text(known.model_dump_json())
    assert build().data == known


@pytest.fixture
def folder(tmp_path: Path) -> SearchFolder:
    folder = search_folder(tmp_path)
    ledger = open_ledger(folder.path, trials=2)
    folder.config.write_text(search_config().to_yaml())
    assert ledger.ask() is not None
    ledger.report(0, RUNGS[-1], {OBJECTIVE: 0.25})
    ledger.close()  # its files are as a run leaves them
    return folder


def test_reading_needs_no_driver_and_writes_nothing(folder: SearchFolder) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.path.rglob("*")}
    read = read_result(folder, "sqlite:///x.db")
    assert (read.state, read.best, read.counts) == ("interrupted", f"{NAME}-0", {"complete": 1})
    assert {path: path.stat().st_mtime_ns for path in folder.path.rglob("*")} == before


def test_the_state_is_the_last_run_s_unless_a_driver_is_at_work(folder: SearchFolder) -> None:
    assert saved_state(folder, []) == "interrupted"  # a driver that died before its end
    folder.result.write_text(result([]).model_dump_json())
    assert saved_state(folder, []) == "complete"
    paused = [ledger_trial(0, None, status=TrialStatus.RUNNING)]
    assert saved_state(folder, paused) == "interrupted"
    folder.result.write_text(result([], state="spent").model_dump_json())
    assert saved_state(folder, paused) == "spent"
    with driver_lock(folder):
        assert saved_state(folder, []) == "running"


def test_the_front_and_what_was_spent_are_read_from_the_ledger(tmp_path: Path) -> None:
    cost = "cost/extra_tokens_pct"
    folder, config = (
        search_folder(tmp_path),
        search_config(
            tradeoffs=[cost],
            budget={
                "trials": 4,
                "steps": 8,
                "total_steps": 30,
                "time_s": 2000.0,
                "price_per_hour": 6.0,
            },
        ),
    )
    ledger = open_ledger(
        folder.path,
        trials=4,
        stopping="none",
        tradeoffs=[cost],
        costs=lambda trial: ({cost: 9.0}, {cost: trial.optim.lr - 0.04}),
    )
    folder.config.write_text(config.to_yaml())
    for score, extra in ((0.5, 20.0), (0.45, 5.0), (0.1, 4.0), (0.4, 10.0)):
        trial = ledger.ask()
        assert trial is not None
        ledger.report(trial.number, RUNGS[-1], {OBJECTIVE: score, cost: extra})
    ledger.add_spent(1800.0, gpu_s=3600.0, tokens=77)
    ledger.add(confirm_s=600.0, confirm_gpu_s=1800.0, confirm_steps=16)
    ledger.add(confirm_s=600.0, confirm_gpu_s=1800.0, confirm_steps=16)
    read = read_result(folder, "sqlite:///x.db")
    uids = [t.uid for t in read.trials if t.status is TrialStatus.COMPLETE]
    assert (read.front, read.knee) == (uids[:3], uids[1])
    assert read.spent is not None
    assert read.spent.infeasible == len(read.trials) - 4
    assert read.spent.model_dump(exclude={"infeasible"}) == {
        "trials": 4,
        "steps": 32,
        "tokens": 77,
        "time_s": 3000.0,
        "gpu_hours": 2.0,
        "money": 5.0,
        "confirm_s": 1200.0,
        "confirm_steps": 32,
        "over": ["trials", "total_steps"],
    }
