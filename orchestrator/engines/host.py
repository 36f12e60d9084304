"""Where engines run: as Ray actors, each at its place; started, called and ended from here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.engines.actor import CALLS_AT_ONCE, ENVIRONMENT, NAMESPACE, EngineActor
from orchestrator.engines.parcels import Depot, Parcel
from orchestrator.engines.placement import Place
from trainable.errors import LatentuneError

_CALLS = 8  # of a depot, at once


class CallFailedError(Exception):
    """A call of an engine that was answered with an error.

    Args:
        error: what the engine raised; None where the engine is gone.
        reason: in a line.
    """

    def __init__(self, error: Exception | None, reason: str) -> None:
        super().__init__(reason)
        self.error = error
        self.reason = reason


class EngineHost(Protocol):
    """Where engines run: Ray, or a test's own."""

    def start(self, name: str, place: Place) -> Any:
        """Begin an engine at a place, or find the one of this name; its handle."""
        ...

    def find(self, name: str) -> Any | None:
        """The engine of this name, if there is one."""
        ...

    def begin(self, handle: Any, method: str, *arguments: Any) -> Any:
        """Call; returns what stands for the answer."""
        ...

    def is_done(self, call: Any) -> bool:
        """Whether a call has been answered."""
        ...

    def answer(self, call: Any, timeout_s: float | None = None) -> Any:
        """Its answer. Raises CallFailedError, also where none comes in time."""
        ...

    def kill(self, handle: Any) -> None:
        """End an engine at once."""
        ...

    def names(self) -> list[str]:
        """The names of all engines that there are, of all searches."""
        ...


@dataclass
class RayHost:
    """Engines as Ray actors.

    Args:
        base, options: as `EngineActor`.
        gpus: of an engine.
        holder: the search that starts them, as in `FleetPlan`.
    """

    base: Mapping[str, Any]
    options: Mapping[str, Any]
    gpus: int
    holder: str

    def start(self, name: str, place: Place) -> Any:
        """As `EngineHost`."""
        return (
            ray.remote(EngineActor)
            .options(
                name=name,
                namespace=NAMESPACE,
                lifetime="detached",
                get_if_exists=True,
                num_cpus=1,
                num_gpus=self.gpus,
                max_concurrency=CALLS_AT_ONCE,
                max_restarts=0,  # the fleet decides where the next one is
                scheduling_strategy=NodeAffinitySchedulingStrategy(place.node, soft=False),
                runtime_env={"env_vars": ENVIRONMENT},
            )
            .remote(dict(self.base), dict(self.options), name, self.holder)
        )

    def find(self, name: str) -> Any | None:
        """As `EngineHost`."""
        try:
            return ray.get_actor(name, namespace=NAMESPACE)
        except ValueError:
            return None

    def begin(self, handle: Any, method: str, *arguments: Any) -> Any:
        """As `EngineHost`."""
        return getattr(handle, method).remote(*arguments)

    def is_done(self, call: Any) -> bool:
        """As `EngineHost`."""
        return bool(ray.wait([call], timeout=0)[0])

    def answer(self, call: Any, timeout_s: float | None = None) -> Any:
        """As `EngineHost`."""
        try:
            return ray.get(call, timeout=timeout_s)
        except (RayActorError, GetTimeoutError) as error:
            raise CallFailedError(None, _first_line(error)) from None
        except RayTaskError as error:
            cause = error.cause if isinstance(error.cause, LatentuneError) else error
            raise CallFailedError(cause, str(error.cause).splitlines()[0]) from None

    def kill(self, handle: Any) -> None:
        """As `EngineHost`."""
        ray.kill(handle, no_restart=True)

    def names(self) -> list[str]:
        """As `EngineHost`."""
        found: Any = ray.util.list_named_actors(all_namespaces=True)
        return [one["name"] for one in found if one["namespace"] == NAMESPACE]


def start_depot(node: str, parcels: Mapping[str, Parcel]) -> Any:
    """Give out parcels from this machine; ends with this driver."""
    return (
        ray.remote(Depot)
        .options(
            num_cpus=0,
            max_concurrency=_CALLS,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
        )
        .remote(dict(parcels))
    )


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
