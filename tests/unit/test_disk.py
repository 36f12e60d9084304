"""Disk space: refused with the numbers, paused before it is gone, and named when it is."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from orchestrator import disk
from orchestrator.checkpoints import load_state, save_state
from orchestrator.disk import (
    check_space,
    check_writable,
    disk_need,
    naming_any_full_disk,
    nearly_full,
)
from orchestrator.errors import HomeError
from orchestrator.events import EventLog, read_events
from orchestrator.files import write_atomic
from tests.small_disk import fill, small_disk
from tests.unit.ledgers import open_ledger, search_config
from trainable.artifact import Artifact
from trainable.errors import DiskFullError
from trainable.trial import TrialConfig

LOCAL, SERVER = "sqlite:////home/mlflow.db", "http://server:5000"


def free(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(disk, "free_bytes", lambda _: count)


def test_the_need_grows_with_what_is_written() -> None:
    config = search_config()
    some = disk_need(config, 64, 10, LOCAL)
    assert disk_need(config, 4096, 10, LOCAL) > some
    assert disk_need(config, 64, 1000, LOCAL) > some + 990 * 100_000
    assert disk_need(config, 64, 10, SERVER) < some
    assert some < 50_000_000


def test_a_search_that_cannot_fit_is_refused_with_the_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    need = 100_000_000
    free(monkeypatch, need + disk.RESERVE - 1)
    with pytest.raises(DiskFullError, match=r"about 100 MB under .* where 108 MB are free.*8 MB"):
        check_space(tmp_path, need)
    free(monkeypatch, need + disk.RESERVE)
    check_space(tmp_path, need)
    assert "more than half" in caplog.text
    caplog.clear()
    free(monkeypatch, 2 * need)
    check_space(tmp_path, need)
    assert not caplog.text


def test_a_search_pauses_while_it_can_still_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free(monkeypatch, disk.RESERVE)
    assert nearly_full(tmp_path) is None
    free(monkeypatch, disk.RESERVE - 1)
    assert "disk full: 8 MB are left under" in str(nearly_full(tmp_path))


def test_a_home_that_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_writable(tmp_path / "not" / "yet")
    assert list(tmp_path.iterdir()) == []

    def read_only(**_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    with pytest.raises(HomeError, match=r"LATENTUNE_HOME: .*Read-only.*a folder on a disk"):
        check_writable(tmp_path / "not" / "yet")


def raise_chained(errors: Sequence[BaseException]) -> None:
    """The last one, raised while the one before it was handled, and so on."""
    if len(errors) == 1:
        raise errors[0]
    try:
        raise_chained(errors[:-1])
    except BaseException:  # noqa: BLE001 - as libraries do that wrap
        raise errors[-1]  # noqa: B904


def sqlite_error(code: int) -> sqlite3.Error:
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("errors", "full"),
    [
        ([OSError(errno.ENOSPC, "No space left on device")], True),
        ([DiskFullError("disk full: a state"), RuntimeError("Tune gave up")], True),
        ([sqlite_error(sqlite3.SQLITE_FULL), RuntimeError("storage"), ValueError("x")], True),
        ([sqlite_error(sqlite3.SQLITE_BUSY)], False),
        ([sqlite_error(sqlite3.SQLITE_IOERR)], False),
        ([OSError(errno.EIO, "Input/output error")], False),
        ([KeyboardInterrupt()], False),
    ],
)
def test_whatever_a_full_disk_became_on_the_way_is_named(
    tmp_path: Path, errors: list[BaseException], full: bool
) -> None:
    with pytest.raises(DiskFullError if full else type(errors[-1])) as caught:
        with naming_any_full_disk(tmp_path):
            raise_chained(errors)
    if full:
        assert "disk full: " in str(caught.value)
        assert caught.value.__cause__ is errors[-1] or caught.value is errors[-1]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "small", "1m") as folder:
        yield folder


def test_on_a_really_full_disk_all_that_was_stored_stays_and_goes_on(small: Path) -> None:
    log_path, trial, artifact = (small / name for name in ("events.jsonl", "uid", "latents"))
    latents = Artifact(
        latents=np.zeros((0, 4), np.float32), config=TrialConfig(), base_model={"path": "bundled"}
    )
    with EventLog(log_path) as log:
        log.append("search_started", {"search": "s"})
        save_state(trial, 60, b"sixty" * 1000)
        latents.save(artifact)
        write_atomic(small / "result.json", b"{}")
        ballast = fill(small)
        with pytest.raises(DiskFullError, match=r"events\.jsonl"):
            log.append("trial_report", {"curve": list(range(5000))})
        with pytest.raises(DiskFullError, match="00000180"):
            save_state(trial, 180, b"180" * 5000)
        with pytest.raises(DiskFullError, match="latents"):
            latents.save(artifact)
        with pytest.raises(DiskFullError, match=r"result\.json"):
            write_atomic(small / "result.json", bytes(10_000))
        assert [event.type for event in read_events(log_path)] == ["search_started"]
        assert load_state(trial, 60) == b"sixty" * 1000
        assert load_state(trial, 180) is None
        assert Artifact.load(artifact).config == TrialConfig()
        assert (small / "result.json").read_bytes() == b"{}"
        ballast.unlink()
        assert log.append("trial_report", {"curve": list(range(5000))}).seq == 1
        save_state(trial, 180, b"180" * 5000)
    assert load_state(trial, 180) == b"180" * 5000


def test_a_ledger_on_a_full_disk_is_named_and_goes_on(small: Path) -> None:
    ledger = open_ledger(small)
    asked = ledger.ask()
    assert asked is not None
    ballast = fill(small)
    with pytest.raises(DiskFullError, match="disk full"), naming_any_full_disk(small):
        while ledger.ask():
            pass
    ballast.unlink()
    again = open_ledger(small)
    first = again.ask()
    assert first is not None
    assert first.number == asked.number
