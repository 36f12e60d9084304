"""The engines of a search as a file beside its ledger: for thin trials and for `status`.

The driver writes it; thin trials, on the same machine, read it whenever they need an engine;
`latentune status` reads it without any Ray.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationError

from orchestrator.engines.placement import EngineState
from orchestrator.engines.waiting import WaitingRecord
from orchestrator.files import write_atomic
from orchestrator.record import Record

ROSTER = "engines.json"


class EngineRecord(Record):
    """One engine.

    Args:
        name: of its actor.
        node: its machine, for people.
        room: trials of this search that it takes at once.
        trials: of this search, in it.
        gpus: that it holds.
        tokens_at_once: slots of one forward; None before it is known.
        slots_per_s: slots trained per second so far; None before the first step.
    """

    name: str
    node: str
    state: EngineState
    room: int
    trials: int = 0
    gpus: int = 0
    tokens_at_once: int | None = None
    slots_per_s: float | None = None


class Roster(Record):
    """All engines of a search.

    Args:
        holder: under which name they are leased, and hold the search's trials.
        waiting: why trials wait; None if none does.
        halting: whether trials that wait for an engine are to give up, for now.
        paused: uids of those that are to give up, for now.
        lost: engines that were lost in this run.
    """

    holder: str = ""
    engines: list[EngineRecord] = Field(default=[])
    waiting: WaitingRecord | None = None
    halting: bool = False
    paused: list[str] = Field(default=[])
    lost: int = 0

    def ends(self, uid: str) -> bool:
        """Whether a trial that waits is to give up, for now."""
        return self.halting or uid in self.paused

    @property
    def ready(self) -> list[EngineRecord]:
        """The engines that take trials."""
        return [engine for engine in self.engines if engine.state == "ready"]


def write_roster(search: Path, roster: Roster) -> None:
    """Write a search's roster."""
    write_atomic(search / ROSTER, roster.model_dump_json(indent=1).encode())


def read_roster(search: Path) -> Roster:
    """A search's roster; an empty one where there is none."""
    try:
        return Roster.model_validate_json((search / ROSTER).read_bytes())
    except (FileNotFoundError, ValidationError):
        return Roster()


def remove_roster(search: Path) -> None:
    """Forget the engines of a search whose driver ends."""
    (search / ROSTER).unlink(missing_ok=True)
