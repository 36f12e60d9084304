"""How long an engine has been at what it does, and how long that usually takes.

One thread begins and ends pieces of work; any other may look, also while a piece hangs.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_KEPT = 64


class StepWatch:
    """A watch over one thread's work.

    Args:
        now: seconds on a clock that never goes back.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._begun: float | None = None
        self._taken: deque[float] = deque(maxlen=_KEPT)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """A piece of work."""
        begun = self._begun = self._now()
        try:
            yield
        finally:
            self._taken.append(self._now() - begun)
            self._begun = None

    @property
    def busy_s(self) -> float:
        """How long the current piece has gone on; 0 between pieces."""
        begun = self._begun
        return 0.0 if begun is None else self._now() - begun

    @property
    def longest_s(self) -> float:
        """The longest of the latest pieces; 0 before the first has ended."""
        return max(tuple(self._taken), default=0.0)
