"""The process that delivers a search's events to MLflow, exactly once, however long it takes.

    python -m orchestrator.shipper SEARCH_DIR --until-ended

    follow events.jsonl ─► outbox ─► sink ─► MLflow
            ▲                          └─ failed: wait, find all runs again, repeat
            └── shipped.json, written after each delivered batch

A crash between delivery and cursor repeats one batch, and a repeated batch changes nothing
(`orchestrator.outbox`). Without `--until-ended` it delivers what is there and leaves. A store
that is away, answers with errors or not at all is asked again and again, ever more seldom; the
cursor says why nothing moves.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout
from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential

from orchestrator.errors import TrackingError
from orchestrator.events import Event, EventTail, read_events
from orchestrator.folders import SearchFolder
from orchestrator.outbox import Outbox
from orchestrator.safety.redaction import safe_logging
from orchestrator.shipping.batch import Batch
from orchestrator.tracking import (
    Cursor,
    read_cursor,
    store_id,
    tracking_uri,
    without_credentials,
    write_cursor,
)
from orchestrator.yaml_source import read_yaml

logger = logging.getLogger(__name__)

POLL_S = 0.5
LONGEST_WAIT_S = 10.0  # between two tries while the store is away
ORPHAN_S = 3600.0  # how long to go on trying once the starter is gone
YIELD_NAME = "shipper.yield"  # where this stands, whoever is at work leaves the rest to another
_REQUEST_S = 60  # a server may be slow; one that never answers is noticed
_NICENESS = 5  # the engine needs the cores more


class Watch:
    """Says when to give up: at the deadline, or an hour after the starter went away.

    Args:
        deadline_s: seconds from now; None for never.
        starter_pid: the process that waits for us; None where there is none to lose.
    """

    def __init__(self, deadline_s: float | None = None, starter_pid: int | None = None) -> None:
        self._deadline = float("inf") if deadline_s is None else time.monotonic() + deadline_s
        self._starter_pid = starter_pid

    @property
    def orphaned(self) -> bool:
        """Whether the starter is gone; from then on the deadline is at most an hour away."""
        if self._starter_pid is None or os.getppid() == self._starter_pid:
            return False
        self._deadline = min(self._deadline, time.monotonic() + ORPHAN_S)
        return True

    @property
    def left_s(self) -> float:
        """Seconds until the deadline, at least 0."""
        _ = self.orphaned
        return max(0.0, self._deadline - time.monotonic())

    def sleep(self, seconds: float) -> None:
        """Sleep, but not beyond the deadline."""
        time.sleep(min(seconds, self.left_s))

    def is_over(self, _: RetryCallState | None = None) -> bool:
        """Whether the deadline has passed; also a stop condition for tenacity."""
        return self.left_s == 0


class Shipper:
    """Delivers one search's events from where the cursor stands.

    Args:
        search_dir: holds events.jsonl and shipped.json.
        uri: tracking URI.
        watch: when to give up.
    """

    def __init__(self, search_dir: Path, uri: str, watch: Watch) -> None:
        from orchestrator.sink import MlflowSink  # imports mlflow, after its settings were made

        self._search_dir = search_dir
        self._uri = uri
        self._watch = watch
        self._sink = MlflowSink(uri, search_dir, _home(search_dir))
        self._store = store_id(uri)
        known = read_cursor(search_dir)
        elsewhere = known.store not in (None, self._store)
        self._start_from(Cursor() if elsewhere else replace(known, store=self._store))

    @property
    def ended(self) -> bool:
        """Whether what has been delivered ends with the search's end, or its confirmation's."""
        return self._last_type in ("search_ended", "confirm_ended")

    def deliver_new(self) -> int:
        """Deliver the events since the last call, one batch of them.

        Returns:
            How many there were.

        Raises:
            TrackingError, MlflowException, OSError: when the watch was over before the store
                took them.
        """
        events = self._tail.read()
        if not events:
            return 0
        batch = self._take_in(events)
        if batch is None or self._retrying()(self._sink.deliver, batch):
            write_cursor(self._search_dir, self._cursor)
            self._delivered = self._cursor
        else:
            logger.warning("the store has lost this search: delivering from the start")
            self._start_from(Cursor())
        return len(events)

    def _start_from(self, cursor: Cursor) -> None:
        """Take in what has been delivered, without delivering it."""
        self._tail = EventTail(self._search_dir / "events.jsonl")
        self._outbox = Outbox()
        self._cursor = Cursor(store=cursor.store)
        self._last_type = ""
        self._sink.forget()
        while missing := cursor.next_seq - self._cursor.next_seq:
            events = self._tail.read(limit=missing)
            if not events:
                break
            self._take_in(events)
        if self._cursor != cursor:
            logger.warning("shipped.json belongs to another event log: delivering from the start")
            self._start_from(Cursor())
        self._delivered = self._cursor

    def _take_in(self, events: list[Event]) -> Batch | None:
        self._outbox.add(events)
        last = events[-1]
        self._cursor = Cursor(next_seq=last.seq + 1, last_time=last.time, store=self._store)
        self._last_type = events[-1].type
        return self._outbox.take()

    def _retrying(self) -> Retrying:
        return Retrying(
            retry=retry_if_exception_type(_outages()),
            wait=wait_exponential(multiplier=0.5, max=LONGEST_WAIT_S),
            stop=self._is_over,
            sleep=self._watch.sleep,
            before_sleep=self._after_failure,
            reraise=True,
        )

    def _is_over(self, state: RetryCallState) -> bool:
        removed = not self._search_dir.is_dir()  # `latentune rm`
        return removed or self._watch.is_over(state) or yields(self._search_dir)

    def _after_failure(self, state: RetryCallState) -> None:
        error = without_credentials(str(state.outcome and state.outcome.exception()), self._uri)
        level = logging.WARNING if state.attempt_number == 1 else logging.DEBUG
        logger.log(level, "the tracking store does not answer, trying again: %s", error)
        self._sink.forget()
        if self._search_dir.is_dir():
            self._say_trouble(error)

    def _say_trouble(self, error: str) -> None:
        """Write down why nothing moves, for whoever waits; a disk may be full just now, too."""
        trouble = f"it does not answer: {error.splitlines()[0] if error else 'no reason'}"[:300]
        with suppress(OSError):
            write_cursor(self._search_dir, replace(self._delivered, trouble=trouble))


def yields(search_dir: Path) -> bool:
    """Whether another process wants to deliver this search's events."""
    return (search_dir / YIELD_NAME).exists()


def ship(
    search_dir: Path, uri: str, *, until_ended: bool, watch: Watch, takes_over: bool = False
) -> bool:
    """Deliver a search's events.

    Args:
        search_dir: the search's folder.
        uri: tracking URI.
        until_ended: follow the log until the search's end; else leave when nothing is left.
        watch: when to give up.
        takes_over: whether a shipper that is at work leaves the rest to this one.

    Returns:
        Whether everything asked for has been delivered.
    """
    with _alone(search_dir, watch, takes_over) as alone:
        if not alone:
            logger.warning("another shipper of this search is still at work")
            return False
        shipper = Shipper(search_dir, uri, watch)
        while True:
            try:
                count = shipper.deliver_new()
            except _outages() as error:
                reason = without_credentials(str(error), uri)
                remedy = f"`latentune sync {search_dir.name}` delivers the rest"
                logger.error("gave up; %s: %s", remedy, reason)
                return False
            if count:
                continue
            if shipper.ended or not until_ended or watch.orphaned:
                return True
            if watch.is_over() or yields(search_dir):
                return False
            watch.sleep(POLL_S)


@contextmanager
def _alone(search_dir: Path, watch: Watch, takes_over: bool) -> Iterator[bool]:
    """Hold the search's events, once nobody else does; False where that took too long."""
    lock = FileLock(search_dir / "shipper.lock")
    asked = search_dir / YIELD_NAME
    try:
        if takes_over:
            asked.touch()
        lock.acquire(timeout=-1 if watch.left_s == float("inf") else watch.left_s)
    except Timeout:
        yield False
        return
    finally:
        asked.unlink(missing_ok=True)
    try:
        yield True
    finally:
        lock.release()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a process of its own. Returns the exit code: 0 when all was delivered."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.shipper", description=__doc__)
    parser.add_argument("search_dir", type=Path)
    parser.add_argument("--until-ended", action="store_true")
    parser.add_argument("--deadline-s", type=float)
    parser.add_argument("--starter-pid", type=int, help="leave some time after it is gone")
    options = parser.parse_args(arguments)
    if not options.search_dir.is_dir():
        parser.error(f"{options.search_dir} is no folder of a search")
    safe_logging(logging.INFO, "%(asctime)s %(levelname)s %(message)s")
    prepare_process()
    os.nice(_NICENESS)
    uri = tracking_uri(_home(options.search_dir), _configured_uri(options.search_dir))
    watch = Watch(options.deadline_s, options.starter_pid)
    done = ship(options.search_dir, uri, until_ended=options.until_ended, watch=watch)
    return 0 if done else 1


def prepare_process() -> None:
    """MLflow's settings, before it is imported.

    Its own retries would block for 247 s, and repeat what was done although the answer was lost.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(_REQUEST_S))
    os.environ |= {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    }
    logging.getLogger("alembic").setLevel(logging.WARNING)


def _configured_uri(search_dir: Path) -> str | None:
    """As the search's own file has it, whole: what the event log quotes has no passwords."""
    kept = SearchFolder(search_dir).config
    if kept.exists():
        data = read_yaml(kept).data
        uri = (data.get("tracking") or {}).get("uri") if isinstance(data, dict) else None
        return None if uri is None else str(uri)
    first = next(read_events(search_dir / "events.jsonl"), None)
    if first is None or first.type != "search_started":
        return None
    uri = (first.payload["config"].get("tracking") or {}).get("uri")
    return None if uri is None else str(uri)


def _home(search_dir: Path) -> Path:
    return search_dir.resolve().parent.parent  # HOME/searches/NAME


def _outages() -> tuple[type[Exception], ...]:
    """What a store that is away, busy or restarting makes its client raise."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return (MlflowException, SQLAlchemyError, TrackingError, OSError)


if __name__ == "__main__":
    sys.exit(main())
