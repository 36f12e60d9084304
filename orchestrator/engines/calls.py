"""Many calls of one engine at a time, without Ray's words for what can go wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import ray
from ray.exceptions import RayActorError, RayTaskError

from orchestrator.engines.crew import CrewMember
from orchestrator.engines.fleet import Fleet
from orchestrator.errors import ConfirmationHaltedError, EngineLostError, NoEngineError
from trainable.errors import LatentuneError


class EngineCalls(Protocol):
    """What a confirmation asks of an engine, by the names of `EngineActor`'s methods.

    Whatever an engine raises on purpose comes as it is; a lost engine raises EngineLostError.
    """

    def ask(self, method: str, *arguments: Any) -> Any:
        """Call and wait."""
        ...

    def begin(self, method: str, *arguments: Any) -> Any:
        """Call; returns what stands for the answer."""
        ...

    def ready(self, calls: Sequence[Any], timeout_s: float) -> list[Any]:
        """Those of begun calls that are answered, once all are or the time is over."""
        ...

    def answer(self, call: Any) -> Any:
        """The answer of a begun call."""
        ...


class FleetCalls:
    """Calls of a fleet's engine, and of its next one once that is lost.

    Args:
        fleet: of one engine at a time.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def wait(self) -> CrewMember:
        """The engine, waited for.

        Raises:
            ConfirmationHaltedError: if the wait is given up.
        """
        try:
            return self._fleet.first()
        except NoEngineError as error:
            raise ConfirmationHaltedError(str(error)) from None

    def ask(self, method: str, *arguments: Any) -> Any:
        """As `EngineCalls`; what needs no trial is asked again where an engine is lost."""
        while True:
            try:
                return self.answer(self.begin(method, *arguments))
            except EngineLostError:
                if method == "join":
                    raise

    def begin(self, method: str, *arguments: Any) -> Any:
        """As `EngineCalls`; waits for an engine where there is none. Raises as `wait`."""
        return getattr(self.wait().handle, method).remote(*arguments)

    def ready(self, calls: Sequence[Any], timeout_s: float) -> list[Any]:
        """As `EngineCalls`."""
        done, _ = ray.wait(list(calls), num_returns=len(calls), timeout=timeout_s)
        return list(done)

    def answer(self, call: Any) -> Any:
        """As `EngineCalls`."""
        try:
            return ray.get(call)
        except RayActorError as error:
            raise EngineLostError(f"the engine was lost: {error}") from None
        except RayTaskError as error:
            if isinstance(error.cause, LatentuneError):
                raise error.cause from None
            raise
