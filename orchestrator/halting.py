"""Watch for what ends a run early: a person, a request under control/, time, a full disk.

Running trials are paused: each saves its state where it stands, and goes on in a later run. The
watching thread asks the conductor and the engine, and touches no ledger: that has one writer.
It may not die, or nobody ends the run any more: what fails it, it does again at its next round.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from orchestrator.conductor import Conductor
from orchestrator.control import Requests
from orchestrator.disk import nearly_full
from orchestrator.folders import SearchFolder

_POLL_S = 0.25
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Watch:
    """What a run is watched for.

    Args:
        conductor: begins no trial any more once it is halted.
        folder: where requests of other processes come to, and whose disk may fill up.
        interrupt: set by a person.
        seconds_left: of the time budgets; they go the faster, the more GPUs there are.
        pause: tells the engines to pause trials, by uid.
        halt: tells trials that wait for an engine to give up.
        look: called at every poll.
    """

    conductor: Conductor
    folder: SearchFolder
    interrupt: threading.Event
    seconds_left: Callable[[], float]
    pause: Callable[[Sequence[str]], object]
    halt: Callable[[], object] = lambda: None
    look: Callable[[], object] = lambda: None

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Watch for as long as this lasts; what was asked for by then has been answered."""
        over = threading.Event()
        thread = threading.Thread(target=self._watch, args=(over,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            Requests(self.folder).clear()

    def _watch(self, over: threading.Event) -> None:
        asked, due, told = set[int](), list[Callable[[], object]](), set[str]()
        while not over.wait(_POLL_S):
            _works(self.look, told)
            _works(partial(self._look, asked, due), told)
            due[:] = [action for action in due if not _works(action, told)]

    def _look(self, asked: set[int], due: list[Callable[[], object]]) -> None:
        """Tell the conductor what is asked for, and add what is then due.

        Args:
            asked: trials that were to end before.
        """
        requests = Requests(self.folder)
        new = [number for number in requests.trials() if number not in asked]
        asked |= set(new)
        to_pause = [self.conductor.stop_trial(number) for number in new]
        reason = self._reason(requests) if self.conductor.halted is None else None
        if reason is not None:
            to_pause += self.conductor.halt(reason)
            due.append(self.halt)
        uids = [uid for uid in to_pause if uid is not None]
        if uids:
            due.append(partial(self.pause, uids))

    def _reason(self, requests: Requests) -> str | None:
        """Why the run is to end early, or None."""
        if self.interrupt.is_set():
            return "interrupt"
        conductor = self.conductor
        conductor.full_disk = conductor.full_disk or nearly_full(self.folder.path)
        if conductor.full_disk is not None:
            return "disk"
        if requests.search():
            return "stop"
        return "time" if self.seconds_left() <= 0 else None


def _works(action: Callable[[], object], told: set[str]) -> bool:
    """Do something; where it fails, say so once of each kind of error."""
    try:
        action()
    except Exception as error:  # noqa: BLE001  (whatever it is, the watch goes on)
        kind = type(error).__name__
        if kind not in told:
            logger.warning("the run could not be halted, trying again: %s: %s", kind, error)
        told.add(kind)
        return False
    return True
