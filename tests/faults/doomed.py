"""A driver that dies where it was told to.

    python -m tests.faults.doomed SEARCH.yaml HOME INSTANT N

    run(config) ──► search_started (from here on it counts) ──► the N-th time: SIGKILL

An instant is one of our own functions, and the driver dies just before or just after it, the N-th
time it comes there; `at` kills N milliseconds after the start, wherever the driver is then. Nothing
is caught and nothing is flushed: it is the same as `kill -9` from outside, at a place that a seed
can name. With the instant `never` it runs to its end.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

from orchestrator import driver, search_end
from orchestrator.conductor import Conductor
from orchestrator.config import load_search
from orchestrator.events import EventLog
from orchestrator.ledger import Ledger
from search_spaces import Space
from trainable import artifact

AT = "at"
NEVER = "never"


@dataclass(frozen=True)
class Place:
    """A function of ours, and on which side of it to die."""

    owner: Any
    name: str
    after: bool = False


INSTANTS = {
    "before-ask": Place(Ledger, "ask"),
    "during-ask": Place(Space, "sample"),  # the study has a number, and no configuration for it
    "after-ask": Place(Ledger, "ask", after=True),
    "result": Place(Conductor, "on_report"),
    "before-tell": Place(Ledger, "report"),  # the event is written, the ledger does not know
    "after-tell": Place(Ledger, "report", after=True),
    "artifact": Place(artifact, "model_card"),  # two of its three files are there
    "after-event": Place(EventLog, "append", after=True),
    "shipping": Place(search_end, "finish_shipping"),
}
CONFIRMING = ("member-told", "items", "verdict")


def _confirming(instant: str) -> Place:
    """Instants of a confirmation, whose modules import Ray."""
    from orchestrator import confirmation_work, members

    return {
        "member-told": Place(members.Bench, "save_report"),  # state and event of its end are there
        "items": Place(members, "write_items"),  # all are trained, and scored anew
        "verdict": Place(confirmation_work, "tell_champion"),  # written, and told to nobody
    }[instant]


def main(search: str, home: str, instant: str, count: str) -> None:
    """Run a search until the instant comes."""
    armed = threading.Event()
    if instant not in (AT, NEVER):
        place = _confirming(instant) if instant in CONFIRMING else INSTANTS[instant]
        _trap(place, int(count), armed)
    _on_start(armed, int(count) / 1000 if instant == AT else None)
    result = driver.run(load_search(search), home=home)
    sys.stdout.write(f"{result.state}\n")


def _trap(place: Place, count: int, armed: threading.Event) -> None:
    """Die at the count-th call since the start."""
    original: Callable[..., Any] = getattr(place.owner, place.name)
    calls = 0

    @wraps(original)
    def trapped(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += armed.is_set()
        dies = armed.is_set() and calls == count
        if dies and not place.after:
            _die()
        answer = original(*arguments, **options)
        if dies:
            _die()
        return answer

    setattr(place.owner, place.name, trapped)


def _on_start(armed: threading.Event, seconds: float | None) -> None:
    """Arm the trap, or start the clock, once the search is told to have started."""
    original = EventLog.append

    @wraps(original)
    def append(self: EventLog, type: Any, *arguments: Any, **options: Any) -> Any:
        event = original(self, type, *arguments, **options)
        if type == "search_started" and not armed.is_set():
            armed.set()
            if seconds is not None:
                threading.Thread(target=_die_later, args=(seconds,), daemon=True).start()
        return event

    EventLog.append = append  # type: ignore[method-assign]


def _die_later(seconds: float) -> None:
    time.sleep(seconds)
    _die()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(*sys.argv[1:])
