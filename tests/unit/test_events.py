import ast
import errno
import json
import logging
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.errors import EventLogError, SearchLockedError
from orchestrator.events import Event, EventLog, EventTail, read_events
from trainable.errors import DiskFullError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "search" / "events.jsonl"


def write_three(path: Path) -> bytes:
    with EventLog(path) as log:
        log.append("search_started", {"search": "s"})
        log.append("trial_started", {"number": 0}, trial_uid="s-0", attempt=1)
        log.append("trial_report", {"step": 60, "metrics": {"a/b": 0.5}}, "s-0", 1)
    return path.read_bytes()


def test_an_event_reads_back_as_it_was_appended(path: Path) -> None:
    with EventLog(path) as log:
        event = log.append("trial_report", {"step": 3, "curve": [[1, 0.5]]}, "s-7", 2)
        assert list(log.read()) == [event]
    assert (event.seq, event.trial_uid, event.attempt) == (0, "s-7", 2)
    assert list(json.loads(path.read_bytes())) == [*Event.__dataclass_fields__, "crc32"]


def test_seq_goes_on_after_reopening(path: Path) -> None:
    write_three(path)
    with EventLog(path) as log:
        assert log.next_seq == 3
        assert log.append("search_ended", {}).seq == 3
        assert [event.seq for event in log.read()] == [0, 1, 2, 3]
        assert [event.seq for event in log.read(from_seq=2)] == [2, 3]


def test_a_fence_that_refuses_lets_nothing_in(path: Path) -> None:
    lost: list[bool] = []

    def fence() -> None:
        if lost:
            raise SearchLockedError("taken over")

    with EventLog(path, fence) as log:
        log.append("search_started", {})
        lost.append(True)
        with pytest.raises(SearchLockedError):
            log.append("search_ended", {})
        lost.clear()
        assert log.append("search_ended", {}).seq == 1
    assert [event.seq for event in read_events(path)] == [0, 1]


def test_every_writer_gives_the_log_the_fence_of_its_lock() -> None:
    """A search, a confirmation, a sync: one that was taken over may not go on with any."""
    found = []
    for source in (Path(__file__).parents[2] / "orchestrator").rglob("*.py"):
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "EventLog":
                found.append([ast.unparse(argument) for argument in node.args])
    assert len(found) == 3
    assert all("fence" in fence for _, fence in found)


def test_numbers_that_json_cannot_hold_become_null(path: Path) -> None:
    payload = {"metrics": {"a": math.nan, "b": -math.inf, "c": 1.0}, "curve": ((1, math.inf),)}
    with EventLog(path) as log:
        event = log.append("trial_report", payload)
        assert list(log.read()) == [event]
    assert event.payload == {"metrics": {"a": None, "b": None, "c": 1.0}, "curve": [[1, None]]}


def test_a_torn_tail_is_ignored_and_cut_at_every_byte(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = write_three(path)
    start_of_last = whole.rindex(b"\n", 0, len(whole) - 1) + 1
    for cut in range(start_of_last, len(whole)):
        path.write_bytes(whole[:cut])
        assert [event.seq for event in read_events(path)] == [0, 1]
        caplog.clear()
        with caplog.at_level(logging.WARNING), EventLog(path) as log:
            assert path.read_bytes() == whole[:start_of_last]
            assert log.append("search_ended", {}).seq == 2
            assert [event.seq for event in log.read()] == [0, 1, 2]
        assert ("cut off" in caplog.text) == (cut > start_of_last)


def test_a_last_line_of_garbage_is_cut_too(path: Path) -> None:
    whole = write_three(path)
    path.write_bytes(whole + b"\0\0\0\n")
    with EventLog(path) as log:
        assert log.next_seq == 3
    assert path.read_bytes() == whole


@pytest.mark.parametrize("damage", [b"{}\n", b"\0\0\n", b""])
def test_damage_before_the_end_is_refused(path: Path, damage: bytes) -> None:
    first, second, third = write_three(path).splitlines(keepends=True)
    path.write_bytes(first + damage + third + second)
    with pytest.raises(EventLogError, match="line 2"):
        EventLog(path)
    with pytest.raises(EventLogError, match="line 2"):
        list(read_events(path))


def test_a_failed_write_leaves_the_log_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = write_three(path)
    with EventLog(path) as log:
        with monkeypatch.context() as patch:
            patch.setattr("orchestrator.events.os.fsync", _disk_full)
            with pytest.raises(OSError, match="full"):
                log.append("search_ended", {})
        assert path.read_bytes() == whole
        assert log.append("search_ended", {}).seq == 3


def _disk_full(_: int) -> None:
    raise OSError("the disk is full")


def test_a_tail_follows_a_log_that_grows(path: Path) -> None:
    tail = EventTail(path)
    assert tail.read() == []
    whole = write_three(path)
    path.write_bytes(whole[:-5])
    assert [event.seq for event in tail.read(limit=1)] == [0]
    assert [event.seq for event in tail.read()] == [1]
    assert tail.read() == []
    path.write_bytes(whole)
    assert [event.seq for event in tail.read()] == [2]


def test_importing_the_log_imports_nothing_heavy() -> None:
    code = "import sys, orchestrator.events; print({'mlflow', 'ray', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_any_byte_that_changes_in_the_middle_is_named(path: Path) -> None:
    """Even one that leaves good JSON, such as another digit of a score."""
    whole = write_three(path)
    begin = whole.index(b"\n") + 1
    end = whole.index(b"\n", begin)
    for at in range(begin, end + 1):
        changed = bytearray(whole)
        changed[at] ^= 1
        path.write_bytes(bytes(changed))
        with pytest.raises(EventLogError, match=r"line [23]"):
            list(read_events(path))
        with pytest.raises(EventLogError, match=r"line [23]"):
            EventLog(path)


def test_any_byte_that_changes_in_the_last_record_drops_it_alone(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = write_three(path)
    begin = whole.rindex(b"\n", 0, len(whole) - 1) + 1
    for at in range(begin, len(whole)):
        changed = bytearray(whole)
        changed[at] ^= 4
        path.write_bytes(bytes(changed))
        caplog.clear()
        with caplog.at_level(logging.WARNING), EventLog(path) as log:
            assert log.next_seq == 2
        assert "cut off" in caplog.text


def test_a_log_of_before_checksums_reads_and_goes_on(path: Path) -> None:
    path.parent.mkdir()
    old = {"seq": 0, "time": 1.0, "trial_uid": None, "attempt": 0}
    path.write_text(json.dumps(old | {"type": "search_started", "payload": {"a": ',"crc32":"'}}))
    path.write_text(path.read_text() + "\n")
    with EventLog(path) as log:
        log.append("search_ended", {})
        assert [event.type for event in log.read()] == ["search_started", "search_ended"]


def test_a_full_disk_is_said_with_the_file_and_what_to_do(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def part(number: int, data: bytes) -> int:
        if calls:
            raise OSError(errno.ENOSPC, "No space left on device")
        calls.append(data)
        return write(number, data[:5])

    whole, write = write_three(path), os.write
    calls: list[bytes] = []
    with EventLog(path) as log:
        monkeypatch.setattr("orchestrator.events.os.write", part)
        with pytest.raises(DiskFullError, match=r"disk full: .*events.jsonl .*run the same"):
            log.append("search_ended", {})
        monkeypatch.undo()
        assert path.read_bytes() == whole
        assert log.append("search_ended", {}).seq == 3
