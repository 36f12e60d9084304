"""The engines that a search uses at the moment, each from its start to its end.

    start ─► greet (versions) ─► provide (files) ─► describe (loads the model) ─► ready ─► pulses
                  │ differ             │ torn              │ another model          │        │ hung
                  └────────────────────┴─► refused ◄───────┘     given back ◄───────┘ lost ◄─┘

Each arrow is a call that is begun, and taken up at a later beat when it has been answered: a
driver with many engines waits for none of them. An engine that another search has started is
that search's to end: this one gives its lease back and goes elsewhere.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from orchestrator.engines.handshake import differences, own_versions, refusal
from orchestrator.engines.host import CallFailedError, EngineHost
from orchestrator.engines.parcels import Parcel
from orchestrator.engines.placement import EngineState, Node, Place
from orchestrator.engines.watchdog import DEAF_S, Pulse, why_hung
from trainable.errors import LatentuneError

_PULSE_S = 2.0
_STARTS_S = 120.0  # an engine that has not greeted by then waits for something
_LOADS_S = 3600.0  # to bring a model's files, and to load them: 100 GB at 30 MB/s
_FAILURES = 3  # of engines before any was ready: it is the model, and no other is started
_LOSSES = 3  # at one place, without a step in between: something is wrong there
_AVOID_S = 300.0
_AGAIN_S = 2.0  # until a killed engine's name and GPU are free
_LEAVES_S = 10.0
_MOVES_S = 60.0  # until trials have gone on elsewhere: a step may take long
CLOCK = ("train_s", "evaluate_s", "idle_s", "trial_steps")


@dataclass
class CrewMember:
    """One engine.

    Args:
        name: of its actor.
        place: where it is.
        handle: its actor.
        is_own: whether this search has started it, with this driver or with an earlier one.
        now: seconds on a clock that never goes back.
    """

    name: str
    place: Place
    handle: Any
    is_own: bool
    now: Callable[[], float] = time.monotonic
    state: EngineState = "starting"
    pulse: Pulse = field(default_factory=lambda: Pulse(trials={}))
    call: tuple[str, Any] | None = None
    beat: Any = None

    def __post_init__(self) -> None:
        self.call_begun = self.beat_begun = self.used = self.now()

    @property
    def silent_s(self) -> float:
        """Since when a heartbeat has not been answered; 0 while none is on its way."""
        return 0.0 if self.beat is None else self.now() - self.beat_begun

    @property
    def late(self) -> str | None:
        """Why it is given up while it is not ready yet; None while it may take its time."""
        waited_s = self.now() - self.call_begun
        if self.state == "starting" and waited_s > _STARTS_S:
            return f"it did not start within {_STARTS_S:.0f} s"
        if self.state == "loading" and waited_s > _LOADS_S:
            return f"it did not load its model within {_LOADS_S:.0f} s"
        return None

    @property
    def idle_s(self) -> float:
        """Since when no trial of the search has been in it."""
        return self.now() - self.used

    def trials(self, holder: str) -> int:
        """Trials of a holder that are in it."""
        return sum(one == holder for one in self.pulse.trials.values())

    @property
    def clock(self) -> Counter[str]:
        """Where its time went, up to its last pulse."""
        pulse = self.pulse
        return Counter({name: getattr(pulse, name) for name in CLOCK})


class Crew:
    """All engines of a search, and what became of those that it had.

    Args:
        holder: as in `FleetPlan`.
        host: where engines run.
        parcels: files of this machine that engines need.
        depot: where engines fetch them, by the id of their node; None on our own.
        step_timeout_s: `engine.step_timeout_s`.
        say: what happens, for a person.
        now: seconds on a clock that never goes back.
    """

    def __init__(
        self,
        holder: str,
        host: EngineHost,
        parcels: Mapping[str, Parcel],
        depot: Callable[[str], Any],
        step_timeout_s: float | None,
        say: Callable[[str], None],
        now: Callable[[], float],
    ) -> None:
        self.members: dict[str, CrewMember] = {}
        self.base_model: Mapping[str, Any] | None = None
        self.failure: Exception | None = None
        self.lost = 0
        self.refused: dict[str, str] = {}
        self.nodes: dict[str, Node] = {}
        self._names: dict[str, str] = {}
        self._holder, self._host, self._say, self._now = holder, host, say, now
        self._parcels, self._depot, self._step_timeout_s = parcels, depot, step_timeout_s
        self._versions = own_versions()
        self._avoid: dict[str, float] = {}
        self._losses: Counter[str] = Counter()
        self._failures = 0
        self._ended: Counter[str] = Counter()
        self._paused: set[str] = set()
        self._unpaused: list[str] = []
        self._beaten = -_PULSE_S

    @property
    def ready(self) -> list[CrewMember]:
        """Those that take trials."""
        return [member for member in self.members.values() if member.state == "ready"]

    @property
    def avoided(self) -> set[str]:
        """Places, and nodes, at which no engine is to start for now."""
        now = self._now()
        self._avoid = {key: until for key, until in self._avoid.items() if until > now}
        self.refused = {key: why for key, why in self.refused.items() if key in self._avoid}
        return set(self._avoid)

    @property
    def is_recovering(self) -> bool:
        """Whether a place waits a moment before it gets its next engine."""
        return bool(self.avoided - set(self.refused))

    @property
    def is_hopeless(self) -> bool:
        """Whether one engine after another has failed, and none was ever ready."""
        return self.base_model is None and self._failures >= _FAILURES

    @property
    def clock(self) -> dict[str, float]:
        """Where the engines' time went, of all that there were."""
        found = Counter(self._ended)
        for member in self.members.values():
            found.update(member.clock)
        return {name: float(found[name]) for name in CLOCK}

    def node_name(self, member: CrewMember) -> str:
        """Its machine, for people."""
        return self._names.get(member.place.node, member.place.node[:8])

    def see(self, nodes: Sequence[Node]) -> None:
        """Note what nodes there are, and give up engines whose machine has gone."""
        self.nodes = {node.id: node for node in nodes}
        self._names |= {node.id: node.name for node in nodes}
        for member in list(self.members.values()):
            if member.place.node not in self.nodes:
                self.lose(member, "its node is gone")

    def start(self, name: str, place: Place) -> None:
        """Begin an engine at a place."""
        self.take_in(name, place, self._host.start(name, place), is_own=True)

    def take_in(self, name: str, place: Place, handle: Any, *, is_own: bool = False) -> None:
        """Use an engine, whoever started it; it tells itself whose it is."""
        member = self.members[name] = CrewMember(name, place, handle, is_own, self._now)
        self._begin(member, "greet", self._holder)

    def tend(self) -> None:
        """Go on with those that have answered, renew leases, give up those that hang."""
        now = self._now()
        due = now - self._beaten >= _PULSE_S
        self._beaten = now if due else self._beaten
        for member in list(self.members.values()):
            self._take_up(member)
            if member.name in self.members and member.state != "starting":
                self._pulse(member, due)
            if member.name in self.members and member.state == "leaving":
                self._go_on_vacating(member, due)

    def pulse_all(self) -> None:
        """Have a fresh pulse of each, for a last look at their clocks."""
        calls = [(m, self._host.begin(m.handle, "pulse", self._holder)) for m in self.ready]
        for member, call in calls:
            with suppress(CallFailedError):
                member.pulse = self._host.answer(call, _LEAVES_S)

    def tell(self, method: str, *arguments: Any) -> None:
        """Call each that is ready, and wait for nothing."""
        for member in self.ready:
            self._host.begin(member.handle, method, *arguments)

    def pause(self, uids: Sequence[str]) -> None:
        """As `EngineLoop.pause`, in engines of now and of later."""
        self._paused |= set(uids)
        self.tell("pause", list(uids), self._holder)

    def unpause(self, uids: Sequence[str]) -> None:
        """As `EngineLoop.unpause`, in engines of now and of later."""
        self._unpaused = list(uids)
        self.tell("unpause", self._unpaused, self._holder)

    @property
    def paused(self) -> list[str]:
        """Trials that are to give up, for now."""
        return sorted(self._paused)

    def lose(self, member: CrewMember, reason: str, *, may_live: bool = False) -> None:
        """Give an engine up; a place that loses one after another is avoided for a while.

        Args:
            may_live: whether it may still serve others; then another's engine is not ended.
        """
        if self.members.get(member.name) is not member:
            return
        self.lost += 1
        self._say(
            f"the engine on {self.node_name(member)} was lost: {reason}; its trials go on from "
            "their last saved states"
        )
        place = member.place.name
        self._losses[place] += 1
        count = self._losses[place]
        anothers = may_live and not member.is_own
        avoids = anothers or count >= _LOSSES
        self._avoid[place] = self._now() + (_AVOID_S if avoids else count * _AGAIN_S)
        if avoids:
            times = f" {count} times, at last" if count > 1 else ""
            told = f"its engine was lost{times}: {reason}"
            self.refused[place] = f"node {self.node_name(member)}: {told}"
            del self._losses[place]
        self._drop(member, kill=not anothers)

    def end(self, member: CrewMember) -> None:
        """Leave an engine, and end it where nobody else uses it."""
        if member.state == "starting":  # it may not answer yet, nor tell who waits for it
            self._drop(member, kill=member.is_own)
            return
        self._ended.update(self.members.pop(member.name).clock)
        with suppress(CallFailedError):  # it is gone already, or hangs and ends by itself
            release = self._host.begin(member.handle, "release", self._holder)
            if self._host.answer(release, _LEAVES_S):
                self._host.kill(member.handle)

    def vacate(self, member: CrewMember) -> None:
        """Have an engine's trials go on in the others, from where they stand, and then leave it."""
        member.state, member.call_begun = "leaving", self._now()
        self._say(
            f"the engine on {self.node_name(member)} is given back to a search that has none; its "
            "trials go on in the others"
        )

    def _go_on_vacating(self, member: CrewMember, due: bool) -> None:
        took_s = self._now() - member.call_begun
        is_empty = not member.trials(self._holder) and took_s >= 2 * _PULSE_S
        if is_empty or took_s > _MOVES_S:  # what is still there goes on from its last saved state
            self.end(member)
        elif due:  # the roster sends none there any more; some may just have come
            self._host.begin(member.handle, "vacate", self._holder)

    def _begin(self, member: CrewMember, method: str, *arguments: Any) -> None:
        member.call_begun = self._now()
        member.call = (method, self._host.begin(member.handle, method, *arguments))

    def _take_up(self, member: CrewMember) -> None:
        if member.call is not None and self._host.is_done(member.call[1]):
            (method, call), member.call = member.call, None
            try:
                self._after(member, method, self._host.answer(call))
            except CallFailedError as failed:
                self._failed(member, failed)
        elif member.late is not None:
            self.lose(member, member.late, may_live=True)

    def _after(self, member: CrewMember, method: str, answer: Any) -> None:
        if method == "describe":
            self._is_ready(member, answer)
        elif method == "provide":
            self._begin(member, "describe")
        else:
            self._has_greeted(member, answer)

    def _has_greeted(self, member: CrewMember, told: Mapping[str, str]) -> None:
        member.is_own = told.get("starter", self._holder if member.is_own else "") == self._holder
        if found := differences(self._versions, told):
            self._refuse(member, refusal(self.node_name(member), found))
            return
        member.state = "loading"
        depot = self._depot(member.place.node) if self._parcels else None
        self._begin(member, "provide", dict(self._parcels), depot)

    def _is_ready(self, member: CrewMember, base_model: Mapping[str, Any]) -> None:
        first = self.base_model or base_model
        expected, got = first["fingerprint"], base_model["fingerprint"]
        if got != expected:
            self._refuse(
                member,
                f"node {self.node_name(member)} has another base model under the same name "
                f"(fingerprint {got[:12]}…, expected {expected[:12]}…): give "
                "base_model.revision, or bring the model's files there to those of the others",
            )
            return
        self.base_model, self.failure = first, None
        self._host.begin(member.handle, "unpause", self._unpaused, self._holder)
        self._host.begin(member.handle, "pause", self.paused, self._holder)
        member.state, member.used = "ready", self._now()

    def _failed(self, member: CrewMember, failed: CallFailedError) -> None:
        """An engine that did not come to be ready."""
        if failed.error is None:
            self.lose(member, failed.reason)
            return
        if self.base_model is None and isinstance(failed.error, LatentuneError):
            self.failure = failed.error
            self._failures += 1
        self._refuse(member, f"node {self.node_name(member)}: {failed.reason}")

    def _refuse(self, member: CrewMember, reason: str) -> None:
        """Use no engine of this node for a while; said once."""
        node = member.place.node
        if self.refused.get(node) != reason:
            self._say(reason)
        self.refused[node] = reason
        self._avoid[node] = self._now() + _AVOID_S
        self._drop(member, kill=member.is_own)

    def _pulse(self, member: CrewMember, due: bool) -> None:
        if member.beat is not None and self._host.is_done(member.beat):
            try:
                self._take_pulse(member, self._host.answer(member.beat))
            except CallFailedError as failed:
                self.lose(member, failed.reason)
                return
        if member.beat is None and due:
            member.beat_begun = self._now()
            member.beat = self._host.begin(member.handle, "pulse", self._holder)
        hung = why_hung(member.pulse, member.silent_s, self._step_timeout_s)
        if hung is not None:  # one that is deaf serves nobody
            self.lose(member, hung, may_live=member.silent_s <= DEAF_S)

    def _take_pulse(self, member: CrewMember, pulse: Pulse) -> None:
        if pulse.trial_steps > member.pulse.trial_steps:
            self._losses.pop(member.place.name, None)
        member.pulse, member.beat = pulse, None
        if member.trials(self._holder):
            member.used = self._now()

    def _drop(self, member: CrewMember, *, kill: bool) -> None:
        """Use an engine no more: it is killed, or left to others, or to end by itself."""
        self._ended.update(self.members.pop(member.name).clock)
        if kill:
            self._host.kill(member.handle)
        else:
            self._host.begin(member.handle, "release", self._holder)
