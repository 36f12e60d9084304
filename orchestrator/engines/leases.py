"""Who uses an engine: leases that end by themselves, on the engine's own clock.

A driver renews its lease all the time. One that was killed does not, and nothing else need
notice: the engine ends when no lease is left. The clock is monotonic and the engine's own,
so that neither clocks that jump nor those that differ end anything.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

LEASE_S = 60.0  # a dozen heartbeats of a driver


class Leases:
    """The holders of one engine.

    Args:
        lasting_s: how long a lease lasts that nobody renews; also how long a new engine waits
            for its first one.
        now: seconds on a clock that never goes back.
    """

    def __init__(
        self, lasting_s: float = LEASE_S, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._lasting_s = lasting_s
        self._now = now
        self._until: dict[str, float] = {}
        self._unused_since = now()
        self._lock = threading.Lock()

    def renew(self, holder: str) -> None:
        """Begin a lease, or have it last from now on again."""
        with self._lock:
            self._until[holder] = self._now() + self._lasting_s

    def release(self, holder: str) -> bool:
        """End a lease; returns whether no other is left."""
        with self._lock:
            self._until.pop(holder, None)
            self._forget()
            return not self._until

    def expired(self) -> list[str]:
        """End the leases that nobody renewed; returns their holders."""
        now = self._now()
        with self._lock:
            gone = [holder for holder, until in self._until.items() if until < now]
            for holder in gone:
                del self._until[holder]
            if gone:
                self._forget()
            return gone

    @property
    def is_unused(self) -> bool:
        """Whether nobody has held a lease for as long as one lasts; ends none: see `expired`."""
        with self._lock:
            return not self._until and self._now() - self._unused_since > self._lasting_s

    @property
    def holders(self) -> list[str]:
        """Who holds a lease."""
        with self._lock:
            return sorted(self._until)

    def _forget(self) -> None:
        if not self._until:
            self._unused_since = self._now()
