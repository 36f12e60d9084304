"""The event log of a search: what happened, once, in order, on this machine's disk.

    driver ── append ──► events.jsonl ── follow ──► shipper ──► MLflow

One JSON object per line, written by the driver alone and synced before `append` returns. A
driver that may have lost its search asks the fence before each.
A line counts once its newline is there: whatever a crash left behind the last newline was
never an event, readers ignore it, and the next writer cuts it off. The last key of a line is a
checksum of the rest, by which a byte that was flipped on the disk shows; lines of earlier
releases have none.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from orchestrator.errors import EventLogError
from orchestrator.safety.redaction import Redaction
from trainable.files import flush, naming_full_disk

logger = logging.getLogger(__name__)

_BEGIN, _SUM = b'{"seq":', ',"crc32":"'  # of a line, and of its last key

EventType = Literal[
    "search_started", "trial_started", "trial_report", "trial_ended", "candidate", "report",
    "search_ended", "confirm_started", "champion", "confirm_ended", "trial_lost", "trial_orphan",
    "state_damaged",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Event:
    """One thing that happened.

    Args:
        seq: place in the log, from 0, without gaps.
        time: Unix time in seconds.
        trial_uid: the trial it is about; None for the search itself.
        attempt: which start of the trial; 0 where that has no meaning.
        type: one of `EventType`; readers pass over types that they do not know.
        payload: plain JSON data; a number that was not finite is None.
    """

    seq: int
    time: float
    trial_uid: str | None
    attempt: int
    type: str
    payload: dict[str, Any]


class EventLog:
    """The writing end. One process at a time: the driver, under the search's lock.

    Args:
        path: the log; made, with its folder, where it is missing.
        fence: asked before each event, and by whoever writes other files of the search; raises
            where another driver took the search over.

    Raises:
        EventLogError: where the log is damaged before its last line.
    """

    def __init__(self, path: Path, fence: Callable[[], None] = lambda: None) -> None:
        self._path = Path(path)
        self.fence = fence
        self._redaction = Redaction.of_environment()  # all that MLflow is told comes through here
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            flush(self._path.parent)
            self._size, last = _sound_part(self._path)
            self._next_seq = last + 1
            self._cut_torn_tail()
        except BaseException:
            os.close(self._file)
            raise

    @property
    def next_seq(self) -> int:
        """The seq that the next event will get; so many events there are."""
        return self._next_seq

    def append(
        self,
        type: EventType,
        payload: Mapping[str, Any],
        trial_uid: str | None = None,
        attempt: int = 0,
    ) -> Event:
        """Write one event; it is on disk when this returns.

        Raises:
            SearchLockedError: where another driver took the search over; nothing was written.
            LedgerError: where the lease may be over, and nobody can tell.
            DiskFullError: where there is no space; the log then ends as it did before.
            OSError: where the disk refuses otherwise; likewise.
            TypeError: for a payload that is not plain JSON data.
        """
        self.fence()
        event = Event(
            seq=self._next_seq,
            time=time.time(),
            trial_uid=trial_uid,
            attempt=attempt,
            type=type,
            payload=_finite(self._redaction.of_data(payload)),
        )
        self._write(_line(event))
        self._next_seq += 1
        return event

    def read(self, from_seq: int = 0) -> Iterator[Event]:
        """All whole events from `from_seq` on."""
        return read_events(self._path, from_seq)

    def close(self) -> None:
        """Give the file back; the log can be opened again at any time."""
        os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _write(self, data: bytes) -> None:
        with naming_full_disk(self._path):
            try:
                written = 0
                while written < len(data):  # a disk that is nearly full takes a part
                    written += os.write(self._file, data[written:])
                os.fsync(self._file)
            except OSError:
                os.ftruncate(self._file, self._size)  # half a line must not meet the next one
                raise
        self._size += len(data)

    def _cut_torn_tail(self) -> None:
        torn = os.fstat(self._file).st_size - self._size
        if torn:
            logger.warning(
                "%s ended in %d bytes of an event that was never finished: cut off; "
                "the log goes on at seq %d",
                self._path,
                torn,
                self._next_seq,
            )
            os.ftruncate(self._file, self._size)
            os.fsync(self._file)


class EventTail:
    """The reading end for a process that follows a log while another writes it.

    Args:
        path: the log; it may not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = Path(path)
        self._offset = 0
        self._next_seq = 0

    def read(self, limit: int = 500) -> list[Event]:
        """The whole events since the last call, at most `limit` of them."""
        events: list[Event] = []
        for event, offset in islice(_scan(self._path, self._offset, self._next_seq), limit):
            events.append(event)
            self._offset, self._next_seq = offset, event.seq + 1
        return events


def read_events(path: Path, from_seq: int = 0) -> Iterator[Event]:
    """All whole events of a log from `from_seq` on; none where there is no log.

    Raises:
        EventLogError: at a line that is no event, or not the next one.
    """
    return (event for event, _ in _scan(Path(path), 0, 0) if event.seq >= from_seq)


def _sound_part(path: Path) -> tuple[int, int]:
    """Bytes up to the last whole event, and its seq (-1 where there is none)."""
    size, seq = 0, -1
    try:
        for event, size in _scan(path, 0, 0):  # noqa: B007
            seq = event.seq
    except EventLogError:
        with path.open("rb") as file:
            file.seek(size)
            rest = file.read()
        if rest.count(b"\n") > 1 or rest.count(_BEGIN) > 1:
            raise  # more than one event: damage, not a torn end
    return size, seq


def _scan(path: Path, offset: int, seq: int) -> Iterator[tuple[Event, int]]:
    """Each whole event from a byte offset on, with the offset behind it."""
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            yield _parse(line, seq, path), offset
            seq += 1


def _parse(line: bytes, seq: int, path: Path) -> Event:
    try:
        event = Event(**json.loads(_checked(line)))
    except (ValueError, TypeError) as error:
        raise EventLogError(
            f"{path}: line {seq + 1} is no event ({error}): the log was damaged or edited; "
            "restore it from a copy, or remove the search with `latentune rm`"
        ) from None
    if event.seq != seq:
        raise EventLogError(
            f"{path}: line {seq + 1} has seq {event.seq}, expected {seq}: the log was damaged, "
            "or two drivers wrote it; restore it from a copy"
        )
    return event


def _line(event: Event) -> bytes:
    """An event as it is written, with the checksum of its bytes as the last key."""
    text = json.dumps(asdict(event), allow_nan=False, separators=(",", ":")).encode()
    return text[:-1] + f'{_SUM}{zlib.crc32(text):08x}"}}\n'.encode()


def _checked(line: bytes) -> bytes:
    """A line without its checksum. Raises ValueError if it is not that of the rest."""
    body, found, rest = line.rpartition(_SUM.encode())
    if not found:
        return line
    text = body + b"}"
    if rest != f'{zlib.crc32(text):08x}"}}\n'.encode():
        raise ValueError("its checksum is another")
    return text


def _finite(value: Any) -> Any:
    """The same data with None for every number that JSON cannot hold."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
