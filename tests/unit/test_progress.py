"""Progress: a live line in a terminal, plain lines elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from orchestrator.ledger import TrialStatus
from orchestrator.progress import SearchProgress, data_lines
from orchestrator.results import DataRecord, OverlapRecord
from tests.unit.records import OBJECTIVE, ledger_trial


@pytest.fixture
def text() -> io.StringIO:
    return io.StringIO()


def plain(text: io.StringIO, total: int = 3) -> SearchProgress:
    return SearchProgress(Console(file=text, width=40), total, OBJECTIVE)


def test_plain_lines_where_there_is_no_terminal(text: io.StringIO) -> None:
    with plain(text) as progress:
        for number in range(3):
            progress.trial_started(ledger_trial(number, None))
        progress.trial_reported(ledger_trial(0, 0.25, step=2), TrialStatus.RUNNING)
        progress.trial_reported(ledger_trial(1, 0.125, step=2), TrialStatus.PRUNED)
        progress.trial_reported(ledger_trial(0, 0.5), TrialStatus.COMPLETE)
        progress.trial_reported(ledger_trial(2, None, step=0), TrialStatus.FAILED)
    lines = text.getvalue().splitlines()
    assert len(lines) == 3, lines  # one for each end, however narrow; none for a rung
    assert lines[0].startswith(
        f"[1/3] trial 1 start2: pruned at step 2, {OBJECTIVE} 0.125; 2 running, "
        "best so far none yet, about "
    )
    assert lines[1].startswith(f"[2/3] trial 0 start2: complete at step 8, {OBJECTIVE} 0.500; ")
    assert "1 running, best so far 0.500 start2, about " in lines[1]
    assert lines[2].startswith("[3/3] trial 2 start2: failed at step 0, no score; 0 running, ")
    assert lines[2].endswith("about 0 s left")
    assert "\x1b" not in text.getvalue()


def test_the_best_so_far_stays_the_best(text: io.StringIO) -> None:
    with plain(text) as progress:
        for number, score in enumerate((0.5, 0.25)):
            progress.trial_reported(ledger_trial(number, score), TrialStatus.COMPLETE)
    assert all("best so far 0.500" in line for line in text.getvalue().splitlines())


def test_the_best_so_far_may_be_the_least(text: io.StringIO) -> None:
    nll = "val_id/nll"
    with SearchProgress(Console(file=text, width=40), 3, nll) as progress:
        for number, score in enumerate((0.5, 0.25, 0.75)):
            trial = ledger_trial(number, None, metrics={nll: score})
            progress.trial_reported(trial, TrialStatus.COMPLETE)
    best = [line.split("best so far ")[1].split()[0] for line in text.getvalue().splitlines()]
    assert best == ["0.500", "0.250", "0.250"]


def test_a_person_s_own_rows_are_told_before_the_first_trial(text: io.StringIO) -> None:
    known = DataRecord(
        rows={"train": 160, "val_id": 20},
        dropped={"train": 3},
        overlap={"val_id": OverlapRecord(prompts=2, rows=1)},
        sha256={"train": {"a.jsonl": "0" * 64}},
        notes=["task.train: the columns source are not read"],
    )
    with plain(text) as progress:
        progress.data_read(known)
    assert text.getvalue().splitlines() == [
        "rows: train 160, val_id 20",
        "of them with a prompt that train has too: val_id 2 (1 whole rows)",
        "dropped as too long: train 3",
        "task.train: the columns source are not read",
    ]
    assert data_lines(DataRecord(rows={"train": 9})) == []  # rows that were made by the task


def test_an_earlier_run_s_trials_are_done_but_tell_nothing_of_the_pace(text: io.StringIO) -> None:
    with plain(text, total=5) as progress:
        progress.search_opened(
            [
                ledger_trial(0, 0.75),
                ledger_trial(1, 0.125, status=TrialStatus.PRUNED),
                ledger_trial(2, None, status=TrialStatus.FAILED),
                ledger_trial(3, 0.25, status=TrialStatus.RUNNING),
            ]
        )
        assert progress._time_left() == "time left unknown"
        progress.trial_reported(ledger_trial(3, 0.5), TrialStatus.COMPLETE)
    assert text.getvalue().startswith("[4/5] trial 3 ")
    assert "best so far 0.750" in text.getvalue()


def test_a_live_line_in_a_terminal(text: io.StringIO) -> None:
    console = Console(file=text, width=120, force_terminal=True)
    with SearchProgress(console, 3, OBJECTIVE) as progress:
        progress.trial_started(ledger_trial(0, None))
        progress.trial_reported(ledger_trial(0, 0.5), TrialStatus.COMPLETE)
    assert "1/3" in text.getvalue()
    assert "best so far 0.500 start2" in text.getvalue()
    assert "trial 0 start2: complete" not in text.getvalue()
