"""A ledger whose last write was cut short, at every byte: the last whole one is used, and said."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from orchestrator.ledger import Ledger
from orchestrator.opening import open_ledger as open_search
from orchestrator.study.wal_tail import WalTail, read_wal_tail
from tests.unit.ledgers import OBJECTIVE, RUNGS, open_ledger, search_config, search_folder

_FRAME = 24 + 4096


class Written:
    """A study as it stands on disk after one report and after two, its driver killed."""

    def __init__(self, home: Path) -> None:
        self.folder = search_folder(home / "written")
        self._ledger: Ledger = open_ledger(self.folder.path)  # not closed: nothing is tidied up
        self._ledger.ask()
        self._ledger.study._storage._backend.engine.dispose()  # type: ignore[attr-defined]
        self.log = self.folder.study.with_name("study.db-wal")
        assert not self.log.exists()
        self._report(RUNGS[0], 0.25)
        self.first = len(self.log.read_bytes())
        self._report(RUNGS[1], 0.5)
        self.data = self.log.read_bytes()

    def _report(self, step: int, score: float) -> None:
        self._ledger.report(0, step, {OBJECTIVE: score})

    def cut(self, home: Path, size: int) -> Path:
        """The same study in another home, its log cut to so many bytes."""
        folder = search_folder(home)
        folder.path.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.folder.study, folder.study)
        log = folder.study.with_name("study.db-wal")
        log.write_bytes(self.data[:size])
        return folder.study


@pytest.fixture
def written(tmp_path: Path) -> Written:
    return Written(tmp_path)


def check_cuts(written: Written, home: Path, sizes: Sequence[int]) -> None:
    whole = read_wal_tail(written.folder.study)
    assert whole == WalTail(2, 0)
    for size in sizes:
        study = written.cut(home / str(size), size)
        found = read_wal_tail(study)
        assert found == WalTail(1, size - written.first), size
        again = open_ledger(study.parent)
        trial = again.trial(0)
        assert (trial.step, dict(trial.reports)) == (2, {2: 0.25}), size
        assert again.report(0, RUNGS[1], {OBJECTIVE: 0.5}) == "running", size
        again.close()
        assert read_wal_tail(study) == WalTail(0, 0), size


def test_a_write_that_was_cut_short_never_was(written: Written, tmp_path: Path) -> None:
    end, first = len(written.data), written.first
    assert end - first >= 2 * _FRAME, "the report fits into one page: nothing is torn between"
    in_header = [first + 1, first + 7, first + 23, first + 24]
    in_page = [first + 25, first + _FRAME - 1, first + _FRAME, end - _FRAME, end - 1]
    check_cuts(written, tmp_path, [*in_header, *in_page])


@pytest.mark.slow
@pytest.mark.faults
def test_a_write_may_be_cut_at_every_byte(written: Written, tmp_path: Path) -> None:
    """Every byte of what is beside the pages, every 61st of the pages themselves."""
    sizes = range(written.first + 1, len(written.data))
    beside = [size for size in sizes if (size - written.first) % _FRAME <= 26]
    check_cuts(written, tmp_path, sorted({*beside, *sizes[::61]}))


def test_what_was_flipped_in_the_last_write_never_was(written: Written, tmp_path: Path) -> None:
    study = written.cut(tmp_path, len(written.data))
    log = study.with_name("study.db-wal")
    data = bytearray(log.read_bytes())
    data[written.first + 100] ^= 1
    log.write_bytes(data)
    assert read_wal_tail(study).commits == 1
    assert open_ledger(study.parent).trial(0).step == 2


def test_it_is_said(written: Written, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    study = written.cut(tmp_path, len(written.data) - 5)
    with caplog.at_level(logging.WARNING):
        ledger = open_search(search_config(), search_folder(tmp_path))
    assert f"{study} ended in" in caplog.text
    assert "the last whole one" in caplog.text
    assert ledger.trial(0).step == 2
    caplog.clear()
    ledger.close()
    open_search(search_config(), search_folder(tmp_path))
    assert not caplog.text


def test_nothing_is_said_of_a_driver_that_was_killed_between_writes(
    written: Written, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    written.cut(tmp_path, written.first)
    assert open_search(search_config(), search_folder(tmp_path)).trial(0).step == 2
    assert not caplog.text


def test_frames_of_an_earlier_turn_are_no_torn_write(written: Written, tmp_path: Path) -> None:
    """SQLite begins the log anew after a checkpoint, and leaves what is behind as it was."""
    newer = open_ledger(tmp_path / "newer")
    newer.ask()
    mine = (tmp_path / "newer" / "study.db-wal").read_bytes()
    assert len(mine) > _FRAME + 32
    study = written.cut(tmp_path, len(written.data))
    study.with_name("study.db-wal").write_bytes(written.data + mine[32:])
    assert read_wal_tail(study) == WalTail(2, 0)


@pytest.mark.parametrize("data", [b"", b"half a header"])
def test_a_log_without_a_header_holds_nothing(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "study.db-wal").write_bytes(data)
    assert read_wal_tail(tmp_path / "study.db") == WalTail(0, len(data))
