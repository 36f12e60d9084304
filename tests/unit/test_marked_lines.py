"""The lines of a job's log that programs read."""

from __future__ import annotations

import pytest

from orchestrator.engines.waiting import WaitingRecord
from orchestrator.jobs.marked_lines import (
    JobProgress,
    for_people,
    read_progress,
    read_told_result,
    tell_progress,
    tell_result,
)
from orchestrator.progress import Standing
from orchestrator.results import SearchResult

RESULT = SearchResult(
    name="small", state="complete", objective="val_ood/exact_match", tracking_uri="http://h:5000",
    best="small-1", artifact="/home/a", summary="ü" * 40_000, trials=[],
)  # fmt: skip
STANDING = Standing(
    done=1, total=3, running=2, objective="val_ood/nll", best=0.5, strategy="start4"
)
PROGRESS = JobProgress(
    trials=STANDING, engines=1, waiting=WaitingRecord(kind="full", detail="all are full")
)


def told(capfd: pytest.CaptureFixture[str]) -> str:
    return capfd.readouterr().out


def test_a_long_result_comes_back_whole(capfd: pytest.CaptureFixture[str]) -> None:
    tell_result(RESULT)
    log = f"before\n{told(capfd)}after\n"
    assert max(map(len, log.splitlines())) < 20_000
    assert read_told_result(log) == RESULT
    assert "".join(for_people([log])) == "before\nafter\n"


def test_the_last_result_counts(capfd: pytest.CaptureFixture[str]) -> None:
    tell_result(RESULT)
    tell_result(RESULT.model_copy(update={"state": "failed"}))
    found = read_told_result(told(capfd))
    assert found is not None
    assert found.state == "failed"


def test_half_a_result_is_none(capfd: pytest.CaptureFixture[str]) -> None:
    tell_result(RESULT)
    lines = told(capfd).splitlines()
    assert read_told_result("\n".join(lines[:-1])) is None
    assert read_told_result("\n".join(lines[1:])) is None
    assert read_told_result("latentune:result 0/1 {}") is None
    assert read_told_result("") is None


def test_the_last_progress_counts(capfd: pytest.CaptureFixture[str]) -> None:
    tell_progress(PROGRESS.model_copy(update={"engines": 0}))
    tell_progress(PROGRESS)
    log = told(capfd)
    assert read_progress(log) == PROGRESS
    assert read_progress("latentune:progress {") is None
    assert read_progress("latentune") is None


def test_lines_that_come_in_pieces() -> None:
    pieces = ["a\nlatent", "une:progress {}\nb", "c\n", "latentune:res", "ult 0/1 {}\nend"]
    assert list(for_people(pieces)) == ["a\n", "bc\n", "end\n"]
