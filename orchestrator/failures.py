"""Why trials fail, and whether trying again can help.

    numeric         loss, latents or a metric not finite     not tried again: failed
    configuration   refused by the engine                    not tried again: failed
    bug             anything that nobody foresaw             not tried again: failed
    out_of_memory   a row that no micro-batch makes fit      not tried again: infeasible
                    memory that ran out elsewhere            tried once more, then infeasible
    lost_machine    a process, an engine or a node is gone   tried again, a few times

The engine halves its micro-batches by itself, as often as it must, before a row does not fit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from orchestrator.errors import EngineLostError
from trainable.errors import LatentuneError, NumericError, RowMemoryError

_OUT_OF_MEMORY = frozenset({"OutOfMemoryError", "MemoryError"})  # torch's, CUDA's, Python's
_BROKEN_DEVICE = ("CUDA error", "NCCL error")  # the process's context is gone with it
_LOST = frozenset({"RayActorError", "WorkerCrashedError", "NodeDiedError", "ObjectLostError"})
_REASON_CHARACTERS = 500


class FailureKind(StrEnum):
    """Why a trial failed."""

    NUMERIC = "numeric"
    OUT_OF_MEMORY = "out_of_memory"
    CONFIGURATION = "configuration"
    LOST_MACHINE = "lost_machine"
    BUG = "bug"


@dataclass(frozen=True)
class Failure:
    """Why a trial failed, for a table and for a person.

    Args:
        tries: how often the same may be tried before it counts.
    """

    kind: FailureKind
    reason: str
    tries: int = 1


class Failed(Protocol):
    """A trial that a table or a message tells of."""

    @property
    def uid(self) -> str:
        """NAME-number."""
        ...

    @property
    def failure(self) -> str | None:
        """A `FailureKind`, or None for one that did not fail."""
        ...

    @property
    def reason(self) -> str | None:
        """In words."""
        ...


def classify(error: BaseException) -> Failure:
    """Why a trial failed, from what the engine raised; Ray's wrapping taken off."""
    cause: BaseException = getattr(error, "cause", None) or error
    name, text = type(cause).__name__, str(cause)
    if isinstance(cause, NumericError):
        return Failure(FailureKind.NUMERIC, text)
    if isinstance(cause, RowMemoryError):
        return Failure(FailureKind.OUT_OF_MEMORY, text)
    if isinstance(cause, EngineLostError):
        return Failure(FailureKind.LOST_MACHINE, text)
    if isinstance(cause, LatentuneError):
        return Failure(FailureKind.CONFIGURATION, text)
    reason = f"{name}: {text}".splitlines()[0][:_REASON_CHARACTERS]
    if name in _OUT_OF_MEMORY:
        return Failure(FailureKind.OUT_OF_MEMORY, reason, tries=2)
    if text.startswith(_BROKEN_DEVICE) or any(c.__name__ in _LOST for c in type(cause).__mro__):
        return Failure(FailureKind.LOST_MACHINE, reason)
    return Failure(FailureKind.BUG, reason)


def failure_lines(trials: Iterable[Failed]) -> list[str]:
    """One line per kind of failure: how many, and the first with its reason."""
    kinds: dict[str, list[Failed]] = {}
    for trial in trials:
        if trial.failure is not None:
            kinds.setdefault(trial.failure, []).append(trial)
    return [
        f"{len(failed)} failed, {kind}; the first one ({failed[0].uid}): {failed[0].reason}"
        for kind, failed in kinds.items()
    ]


def first_cause(name: str, trials: Sequence[Failed]) -> str:
    """What to say of a search in which no trial succeeded: the first failure, and the counts."""
    failed = [trial for trial in trials if trial.failure is not None]
    if not failed:
        return f"search {name!r} failed: it has no trial that could be trained"
    first, kinds = failed[0], Counter(str(trial.failure) for trial in failed)
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    return (
        f"all {len(failed)} trials of search {name!r} failed ({counts}); the first, {first.uid}: "
        f"{first.reason}"
    )
