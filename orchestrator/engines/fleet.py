"""All engines of a search: kept at what it needs by a thread of their own, at every beat.

    tend     go on with engines that start, renew leases, give up those that died or hang (`crew`)
    look     what nodes there are; adopt, start and end engines (`queue`, `placement`); ask the
             autoscaler
    publish  the roster: where thin trials find room, and why they wait

The driver's other threads ask here for whatever concerns all engines. What happens to one of
them is never the search's end: its trials go to another, or wait until there is one.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ray.exceptions import RayError

from orchestrator.engines.crew import Crew, CrewMember
from orchestrator.engines.fleet_plan import MOST_ENGINES, Cluster, FleetPlan
from orchestrator.engines.host import CallFailedError, EngineHost
from orchestrator.engines.placement import EngineView, Node, Place, Wish
from orchestrator.engines.queue import Ticket, Turn
from orchestrator.engines.roster import (
    EngineRecord,
    Roster,
    read_roster,
    remove_roster,
    write_roster,
)
from orchestrator.engines.waiting import WaitingRecord, why_waiting
from orchestrator.errors import ClusterError, NoEngineError

logger = logging.getLogger(__name__)

BEAT_S = 0.25
_LOOK_S = 2.0  # how often the cluster is looked at
_SAY_S = 60.0
_HOPELESS = ("no-gpu", "no-node", "refused")
_BEHIND = ("queued", "busy")


class Fleet:
    """The engines of one search.

    Args:
        plan: what it is to be.
        host: where engines run.
        cluster: what there is.
        say: what happens, for a person.
        now: seconds on a clock that never goes back.
    """

    def __init__(
        self,
        plan: FleetPlan,
        host: EngineHost,
        cluster: Cluster,
        say: Callable[[str], None] = logger.warning,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.plan = plan
        self.work: Callable[[], int] = lambda: 1  # trials that are not at their end
        self.gives_up: Callable[[], bool] = lambda: False  # asked by whoever waits for an engine
        self.waiting: WaitingRecord | None = None
        self.gpu_s = 0.0
        self._behind_s = 0.0  # without an engine, while others have all that it could use
        self.is_kept = False  # whether the engines stay for whoever comes next
        self.is_taken_over = False  # whether another driver has the search by now
        self._host, self._cluster, self._say, self._now = host, cluster, say, now
        self._crew = Crew(
            plan.holder, host, plan.parcels, cluster.depot, plan.step_timeout_s, say, now
        )
        self._ticket = uuid.uuid4().hex
        self._arrived: float | None = None
        self._halting = False
        self._told: tuple[str, float] = ("", 0.0)
        self._looked = -_LOOK_S
        self._seen = 0  # engines at the last look
        self._metered = now()
        self._lock = threading.RLock()
        self._over = threading.Event()

    @property
    def gpus(self) -> int:
        """GPUs that its engines hold now."""
        with self._lock:
            return self.plan.gpus * len(self._crew.members)

    @property
    def room(self) -> int:
        """How many trials may run now."""
        with self._lock:
            return sum(self._takes(member) for member in self._crew.ready)

    @property
    def clock(self) -> dict[str, float]:
        """Where the engines' time went, added up; of lost ones, up to their last pulse."""
        with self._lock:
            self._crew.pulse_all()
            return self._crew.clock

    def take_behind_s(self) -> float:
        """Seconds that it was behind others without an engine, since this was last asked."""
        with self._lock:
            taken, self._behind_s = self._behind_s, 0.0
        return taken

    def wait(self) -> None:
        """Wait until an engine is ready.

        Raises:
            NoEngineError: where `gives_up` says so first.
            BaseModelError: if the model cannot be used, on this node as on that.
            ClusterError: if no engine can be started, and no node can join; or once closed.
        """
        while not self._over.wait(BEAT_S):
            with self._lock:
                if self._crew.ready:
                    return
                failure, waiting = self._crew.failure, self.waiting
                others = bool(self._crew.members)  # one starts, at another place
            if failure is not None and not others:
                raise failure
            if waiting is not None and waiting.kind in _HOPELESS and not self._cluster.can_grow:
                raise ClusterError(f"no engine can be started: {waiting.detail}")
            if self.gives_up():
                raise NoEngineError("stopped while it waited for an engine")
        raise ClusterError("the engines have been closed")

    def first(self) -> CrewMember:
        """An engine that is ready, waited for. Raises as `wait`."""
        while True:
            self.wait()
            with self._lock:
                if self._crew.ready:
                    return self._crew.ready[0]

    @property
    def base_model(self) -> Mapping[str, Any]:
        """What identifies the model, once an engine has loaded it."""
        assert self._crew.base_model is not None, "no engine has been waited for"
        return self._crew.base_model

    def ask(self, method: str, *arguments: Any) -> Any:
        """Call one engine and wait; another one, where it is lost meanwhile.

        Raises:
            LatentuneError: what the engine raises, or as `first`.
        """
        while True:
            member = self.first()
            try:
                return self._host.answer(self._host.begin(member.handle, method, *arguments))
            except CallFailedError as failed:
                if failed.error is not None:
                    raise failed.error from None
                self.lost(member, failed.reason)

    def lost(self, member: CrewMember, reason: str) -> None:
        """A caller has found an engine dead."""
        with self._lock:
            self._crew.lose(member, reason)
            self._looked = -_LOOK_S

    def pause(self, uids: Sequence[str]) -> None:
        """Answer the waiting calls of these trials now, wherever they are or come to be."""
        with self._lock:
            self._crew.pause(uids)
            self._publish()

    def unpause(self, uids: Sequence[str]) -> None:
        """Let these trials train again, in engines of now and of later."""
        with self._lock:
            self._crew.unpause(uids)

    def halt(self) -> None:
        """Have the trials that wait for an engine give up, for now; start no engine any more."""
        with self._lock:
            self._halting = True
            self._publish()

    def leave(self, uid: str) -> None:
        """Let a trial go, wherever it is."""
        with self._lock:
            self._crew.tell("leave", uid, self.plan.holder)

    def run(self) -> None:
        """Beat until closed; a thread's work.

        Where Ray or the disk fails it for a moment, the next beat tries again. What nobody foresaw
        halts the search: trials that wait give up, and whoever asks is told.
        """
        try:
            while not self._over.wait(BEAT_S):
                try:
                    self.beat()
                except (RayError, OSError) as error:
                    logger.warning("the engines could not be looked after: %s", error)
        except BaseException:
            self.halt()
            self._over.set()
            raise

    def beat(self) -> None:
        """Tend, look, publish."""
        with self._lock:
            now = self._now()
            self.gpu_s += self.gpus * (now - self._metered)
            if self.waiting is not None and self.waiting.kind in _BEHIND:
                self._behind_s += now - self._metered
            self._metered = now
            self._crew.tend()
            changed = len(self._crew.members) != self._seen
            if now - self._looked >= _LOOK_S or changed:
                self._look()
                self._looked, self._seen = now, len(self._crew.members)
            self._publish()

    def close(self, *, keep: bool = False) -> None:
        """End leases, and engines that nobody else uses.

        Where another driver has taken the search over, the leases and the roster are that one's,
        under the same name, and stay.

        Args:
            keep: leave the engines to whoever comes next; our leases end by themselves.
        """
        self._over.set()
        with self._lock:
            self._cluster.demand(0)
            if not keep:  # else whoever comes next is where this one was
                self._cluster.leave(self._ticket)
            if self.is_taken_over:
                return
            for member in list(self._crew.members.values()):
                if not keep:
                    self._crew.end(member)
            remove_roster(self.plan.folder)

    def _look(self) -> None:
        crew, nodes = self._crew, self._cluster.nodes()
        crew.see(nodes)
        views = {member.place.name: self._view(member) for member in crew.members.values()}
        wish = self._wish()
        turn = self._turn(nodes, views, wish)
        decision = turn.decision
        for name in turn.shares:
            self._adopt(name)
            views[name] = EngineView("loading")
        for name in turn.gives:
            crew.vacate(crew.members[f"{self.plan.pool}/{name}"])
        for place in decision.start:
            crew.start(self._name(place), place)
        for name in decision.end:
            crew.end(crew.members[f"{self.plan.pool}/{name}"])
        self._cluster.demand(decision.missing)
        scaler = self._cluster.autoscaler() if decision.missing else None
        doing = None if scaler is None else scaler.doing
        self.waiting = why_waiting(
            nodes,
            views,
            wish,
            decision,
            autoscaler=doing,
            refused=crew.refused,
            before=turn.before,
        )
        if self.waiting is not None and self.waiting.kind == "busy" and crew.is_recovering:
            told = "an engine was lost; the next one starts in a moment"
            self.waiting = WaitingRecord(kind="engine-starting", detail=told)
        self._say_waiting()

    def _turn(self, nodes: Sequence[Node], views: Mapping[str, EngineView], wish: Wish) -> Turn:
        """What this search may do now; nothing new where it is halted, or no engine can be had."""
        crew = self._crew
        if self._halting or crew.is_hopeless:
            wish = replace(wish, most=len(views))
        ticket = Ticket(
            id=self._ticket,
            holder=self.plan.holder,
            pool=self.plan.pool,
            wish=wish,
            engines=views,
            offers=self._offers(),
            avoided=frozenset(crew.avoided),
            refused=frozenset(crew.refused),
            arrived=self._arrived,
        )
        turn = self._cluster.turn(ticket, nodes)
        self._arrived = turn.arrived
        return turn

    def _wish(self) -> Wish:
        plan, trials = self.plan, self.work()
        most = min(plan.most or MOST_ENGINES, MOST_ENGINES)
        rooms = tuple(self._takes(member) for member in self._crew.members.values())
        return Wish(
            gpus=plan.gpus, trials=trials, trials_each=plan.trials_each, most=most, rooms=rooms
        )

    def _view(self, member: CrewMember) -> EngineView:
        trials, room = member.trials(self.plan.holder), self._takes(member)
        return EngineView(member.state, trials, member.idle_s, room)

    def _name(self, place: Place) -> str:
        return f"{self.plan.pool}/{place.name}"

    def _offers(self) -> frozenset[str]:
        """Places with engines that other searches, or an earlier driver of this one, started."""
        prefix = f"{self.plan.pool}/"
        started = [name for name in self._host.names() if name.startswith(prefix)]
        names = {name.removeprefix(prefix) for name in started if name not in self._crew.members}
        avoided = self._crew.avoided
        return frozenset(
            name
            for name in names
            if (node := name.partition("/")[0]) in self._crew.nodes and not {name, node} & avoided
        )

    def _adopt(self, offer: str) -> None:
        """Use an engine that another has started, if it is still there."""
        name = f"{self.plan.pool}/{offer}"
        node, _, index = offer.partition("/")
        handle = self._host.find(name)
        if handle is not None:
            self._crew.take_in(name, Place(node, int(index)), handle)

    def _room(self, member: CrewMember) -> int:
        """Trials that an engine takes: fewer where it can hold fewer tokens than the others."""
        budgets = [one.pulse.tokens_at_once for one in self._crew.ready]
        most = max((tokens for tokens in budgets if tokens is not None), default=None)
        own = member.pulse.tokens_at_once
        share = 1.0 if most is None or own is None else own / most
        return max(1, round(self.plan.trials_each * share))

    def _takes(self, member: CrewMember) -> int:
        """Trials that it has room for, or has from when it was the largest: none is sent away."""
        return max(self._room(member), member.trials(self.plan.holder))

    def _say_waiting(self) -> None:
        """Tell a person why nothing runs: when the reason changes, and each minute."""
        waiting = self.waiting
        if waiting is None or self._crew.ready or waiting.kind == "engine-starting":
            return
        said, at = self._told
        if said != waiting.detail or self._now() - at > _SAY_S:
            self._told = (waiting.detail, self._now())
            self._say(f"waiting: {waiting.detail}")

    def _publish(self) -> None:
        if self._over.is_set():
            return
        roster = Roster(
            holder=self.plan.holder,
            engines=[self._record(member) for member in self._crew.members.values()],
            waiting=self.waiting,
            halting=self._halting,
            paused=self._crew.paused,
            lost=self._crew.lost,
        )
        if roster != read_roster(self.plan.folder):  # a driver that hung may have left its own
            write_roster(self.plan.folder, roster)

    def _record(self, member: CrewMember) -> EngineRecord:
        return EngineRecord(
            name=member.name,
            node=self._crew.node_name(member),
            state=member.state,
            room=self._room(member),
            trials=member.trials(self.plan.holder),
            gpus=self.plan.gpus,
            tokens_at_once=member.pulse.tokens_at_once,
            slots_per_s=member.pulse.slots_per_s,
        )
