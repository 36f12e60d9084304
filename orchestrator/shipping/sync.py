"""`latentune sync`: deliver what tracking lacks of a search that runs no more.

    last word of the log ─ none: its driver was killed ─► the end is told now
    events.jsonl from the cursor on ──────────────────► the store, exactly once

The driver's lock is held for the end alone, so that nobody else writes the log meanwhile.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from rich.console import Console

from orchestrator.config import load_search
from orchestrator.console import print_line
from orchestrator.driver_lock import driver_lock, is_held
from orchestrator.errors import SearchLockedError
from orchestrator.events import EventLog, read_events
from orchestrator.folders import SearchFolder
from orchestrator.ledger import read_ledger
from orchestrator.results import SCHEMA_VERSION, Record
from orchestrator.shipper import Watch, prepare_process, ship
from orchestrator.tracking import read_cursor, store_id, tracking_uri, without_credentials

_WORDS = ("search_started", "search_ended", "confirm_started", "confirm_ended")


class Sync(Record):
    """What `sync` did.

    Args:
        events: in the search's log.
        delivered: of them, now.
        pending: that the store still lacks.
        closed: whether the end of a search, or confirmation, was told whose driver was killed.
        trouble: why events are pending; None where none are.
    """

    schema_version: int = SCHEMA_VERSION
    name: str
    tracking_uri: str
    events: int
    delivered: int
    pending: int
    closed: bool
    trouble: str | None


def sync(name: str, *, home: Path, timeout_s: float, flag: str | None = None) -> Sync:
    """Deliver what the tracking store lacks of a search.

    Args:
        name: the search's.
        home: LATENTUNE_HOME.
        timeout_s: how long to try, in seconds.
        flag: another tracking URI than the search's own.

    Raises:
        SearchNotFoundError: if there is no such search.
        SearchLockedError: while it runs: its own shipper is at work.
        TrackingUriError: for a URI that cannot be used.
    """
    folder = SearchFolder.existing(home, name)
    uri = tracking_uri(home, load_search(folder.config).tracking.uri, flag=flag)
    if is_held(folder):
        raise SearchLockedError(
            f"search {name!r} is running, and delivers by itself: sync is for one that has ended"
        )
    closed = _tell_end(folder)
    count = sum(1 for _ in read_events(folder.events))
    before = _next_seq(folder, uri)
    prepare_process()
    trouble = None if before == count else _deliver(folder, uri, timeout_s)
    after = _next_seq(folder, uri)
    return Sync(
        name=name,
        tracking_uri=without_credentials(uri, uri),
        events=count,
        delivered=max(0, after - before),
        pending=count - after,
        closed=closed,
        trouble=trouble if after < count else None,
    )


def _deliver(folder: SearchFolder, uri: str, timeout_s: float) -> str:
    """Ship, in place of a shipper that may still be at work; why it may have been in vain."""
    ship(folder.path, uri, until_ended=False, watch=Watch(timeout_s), takes_over=True)
    return read_cursor(folder.path).trouble or f"it was not done within {timeout_s:g} s"


def _tell_end(folder: SearchFolder) -> bool:
    """Tell the end that a killed driver did not tell, so that no run stays RUNNING."""
    with driver_lock(folder) as fence, EventLog(folder.events, fence) as events:
        words = [event.type for event in events.read() if event.type in _WORDS]
        if not words or words[-1] not in ("search_started", "confirm_started"):
            return False
        if words[-1] == "confirm_started":
            events.append("confirm_ended", {"state": "interrupted"})
        else:
            trials = Counter(str(t.status) for t in read_ledger(folder.path, folder.name))
            events.append("search_ended", {"state": "interrupted", "trials": trials})
    return True


def _next_seq(folder: SearchFolder, uri: str) -> int:
    """The first event that this very store lacks."""
    cursor = read_cursor(folder.path)
    return cursor.next_seq if cursor.store in (None, store_id(uri)) else 0


def print_sync(console: Console, found: Sync) -> None:
    """What was done, in a sentence or two."""
    ended = " (its driver was killed: the end was told now)" if found.closed else ""
    lines = [
        f"{found.name}: {found.delivered} of {found.events} events delivered to "
        f"{found.tracking_uri}{ended}"
    ]
    if found.pending:
        lines.append(
            f"{found.pending} are pending: {found.trouble}; nothing is lost, sync again when the "
            "store is there"
        )
    for line in lines:
        print_line(console, line)
