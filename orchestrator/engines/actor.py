"""An engine behind a Ray actor: one frozen model in one process, shared by many thin trials.

One thread inside owns the model (`trainable.loop`); every call waits its turn, but for those of
a driver's heartbeat, which are answered at once. An engine that no driver has a lease on ends
itself; Ray never starts one again: the fleets of the drivers do, where there is a place.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import ray

from orchestrator.assignment import Assignment, DataSource
from orchestrator.engines.handshake import own_versions
from orchestrator.engines.leases import LEASE_S, Leases
from orchestrator.engines.parcels import Parcel, Provisions
from orchestrator.engines.watchdog import Pulse
from orchestrator.errors import EngineFullError

if TYPE_CHECKING:
    from trainable.data import EncodedTask, Split
    from trainable.item_scores import Insertion, ItemScores
    from trainable.loop import EngineLoop

logger = logging.getLogger(__name__)

NAMESPACE = "latentune"
CALLS_AT_ONCE = 512  # each waiting trial holds one
# Threads that wait give their core away. Spinning ones cost nothing on an idle machine and
# made a step 1.8 times slower with one other busy process on two cores.
ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}
_LOOKS = 6  # for expired leases, while one lasts


def resident(uid: str, holder: str) -> str:
    """A trial's uid inside an engine: searches of one name may meet there."""
    return f"{holder}/{uid}" if holder else uid


class EngineActor:
    """The actor's class; a `Fleet` makes them.

    Whose trials they are, calls say by their holder, as in `FleetPlan`: none reaches another's.
    The model is loaded by the first call that needs it and not by the constructor, so that what
    is wrong with it reaches the caller as it is.

    Args:
        base: keyword arguments of `load_base`.
        options: `threads` (None: all cores), and keyword arguments of `Engine`; of those, `compile`
            stands for `compiled`.
        name: of the actor; it ends itself by this name. None where there is no Ray.
        starter: the search that has started it.
    """

    def __init__(
        self,
        base: Mapping[str, Any],
        options: Mapping[str, Any],
        name: str | None = None,
        starter: str = "",
    ) -> None:
        self._base = base
        self._options = options
        self._starter = starter
        self._loading = threading.Lock()
        self._loop: EngineLoop | None = None
        self._data: dict[str, EncodedTask] = {}
        self._leases = Leases()
        self._holders: dict[str, str] = {}
        self._attempts: dict[str, tuple[str, int]] = {}  # to holder, and the last that came
        self._moving: set[str] = set()  # of these, those that are to go on in another engine
        self._entering = threading.Lock()
        self._sleeping = threading.Event()
        self._provisions = Provisions.of_this_node()
        if name is not None:
            threading.Thread(target=self._end_when_unused, args=(name,), daemon=True).start()

    def greet(self, holder: str) -> dict[str, str]:
        """Begin a lease; what an earlier driver of this holder left here leaves.

        Returns:
            What this process runs, as `own_versions`, and `starter`, which search has started it.
        """
        self._leases.renew(holder)
        self._clear(holder)
        return {**own_versions(), "starter": self._starter}

    def pulse(self, holder: str) -> Pulse:
        """Renew a lease; how the engine is. Answered at once, whatever the model does."""
        self._leases.renew(holder)
        return self.look()

    def look(self) -> Pulse:
        """How the engine is, for one who has no lease."""
        loop, trials = self._loop, dict(self._holders)
        if loop is None:
            return Pulse(trials=trials)
        clock = loop.clock
        return Pulse(
            busy_s=loop.watch.busy_s,
            longest_s=loop.watch.longest_s,
            trials=trials,
            tokens_at_once=loop.engine.micro_batch_tokens,
            slots_per_s=clock.all_slots / clock.train_s if clock.train_s else None,
            train_s=clock.train_s,
            evaluate_s=clock.evaluate_s,
            idle_s=clock.idle_s,
            trial_steps=clock.trial_steps,
        )

    def release(self, holder: str) -> bool:
        """End a lease; returns whether no other is left."""
        last = self._leases.release(holder)
        self._clear(holder)
        return last

    def provide(self, parcels: Mapping[str, Parcel], depot: Any) -> None:
        """See to it that files of the driver's machine are on this one; see `Provisions`.

        Args:
            depot: an actor of `Depot`; None where the driver is on this machine.

        Raises:
            ParcelError: if they cannot be had whole.
        """

        def read(method: str, *arguments: Any) -> Any:
            return ray.get(getattr(depot, method).remote(*arguments))

        self._provisions.provide(parcels, None if depot is None else read)

    def describe(self) -> dict[str, Any]:
        """What identifies the model.

        Raises:
            BaseModelError: as `load_base` and the engine's self-test do.
        """
        return self._running.engine.base.describe()

    def check(self, source: DataSource) -> dict[str, dict[str, int]]:
        """Refuse a task with rows that no trial of this model could read.

        Returns:
            `rows`: how many there are per split, and `dropped`: how many were left out.

        Raises:
            TaskError: if a row, without any latent, is too long.
        """
        data = self._encoded(source)
        self._running.call(lambda engine: engine.check_context(data, source.max_tokens))
        return {
            "rows": {split: len(data.rows(split)) for split in data.splits},
            "dropped": {split: data.dropped(split) for split in data.splits},
        }

    def survey(
        self,
        source: DataSource,
        configs: Sequence[Mapping[str, Any]],
        splits: Sequence[str],
        fused: int,
        tests: Sequence[str] = (),
        test_rows: int | None = None,
    ) -> dict[str, Any]:
        """What configurations cost on a task's rows, and how fast the engine is here.

        Args:
            configs: `TrialConfig.to_dict()` of a sample.
            fused: how many of them are timed together.
            tests: splits that a confirmation scores on.
            test_rows: how many rows of each distance of these it takes; None takes all.

        Returns:
            `survey`, a `Survey`, `calibration`, a `Calibration` or None, as plain data, and
            `test_tokens` of one scoring on `tests`, per configuration.
        """
        from trainable.calibration import calibrate
        from trainable.delimiters import Vocabulary
        from trainable.token_count import survey, tokens_of_tests
        from trainable.trial import TrialConfig

        data, trials = self._encoded(source), [TrialConfig.from_dict(one) for one in configs]
        scored: Any = [split for split in splits if split in data.splits]
        tested: Any = [split for split in tests if split in data.splits]
        base = self._running.engine.base
        vocabulary = Vocabulary(base.tokenizer, base.model.config.get_text_config().vocab_size)
        found = survey(trials, vocabulary, data, scored, source.seed)
        measured = self._running.call(
            lambda engine: calibrate(engine, data, trials[:fused], scored, data_seed=source.seed)
        )
        return {
            "survey": asdict(found),
            "calibration": None if measured is None else asdict(measured),
            "test_tokens": tokens_of_tests(trials, vocabulary, data, tested, test_rows),
        }

    def join(
        self,
        assignment: Assignment,
        state: bytes | None,
        holder: str = "",
        room: int | None = None,
    ) -> None:
        """Take a trial in, in place of an earlier attempt of the same uid.

        Args:
            holder: whose it is.
            room: the most trials of this holder; None for any number.

        Raises:
            EngineFullError: if so many are here, or a later attempt has been.
        """
        from trainable.engine import Engine, TrialSpec
        from trainable.state import TrialState
        from trainable.trial import TrialConfig

        source, uid = DataSource(**assignment.data), resident(assignment.uid, holder)
        spec = TrialSpec(
            uid=uid,
            name=assignment.uid,
            config=TrialConfig.from_dict(assignment.config),
            budget_steps=assignment.rungs[-1],
            data_seed=source.seed if assignment.stream_seed is None else assignment.stream_seed,
            max_tokens=source.max_tokens,
            long_rows=source.long_rows,
            times_decoding=assignment.times_decoding,
        )
        restored, loop = None if state is None else TrialState.from_bytes(state), self._running

        def enter(engine: Engine) -> None:
            self._refuse_earlier(holder, uid, assignment.attempt)
            self._let_go(loop, uid)  # what waits for the earlier attempt is told
            self._book(uid, holder, room)
            try:
                engine.join(spec, self._encoded(source), restored)
            except BaseException:
                del self._holders[uid]
                raise

        loop.call(enter)  # at once: no other attempt comes in between

    def train(
        self, uid: str, until_step: int, splits: Sequence[Split], holder: str = ""
    ) -> dict[str, Any]:
        """Train to a step and score; the report as plain data, its state as bytes.

        One that `moves` has left this engine, and goes on in another from that state.
        """
        uid = resident(uid, holder)
        report = self._running.train(uid, until_step, splits)
        moves = report.paused and uid in self._moving
        if moves:
            self._leave(uid)
        return {
            "step": report.step,
            "metrics": report.metrics,
            "curve": report.curve,
            "state": report.state.to_bytes(),
            "paused": report.paused,
            "moves": moves,
        }

    def vacate(self, holder: str) -> None:
        """Answer the waiting calls of a holder's trials now, for them to go on elsewhere."""
        uids = [uid for uid, one in list(self._holders.items()) if one == holder]
        self._moving.update(uids)
        self._running.pause(uids)
        self._running.unpause(uids)

    def pause(self, uids: Sequence[str], holder: str = "") -> None:
        """Answer the waiting calls of these trials now, and their later ones at once."""
        self._running.pause(resident(uid, holder) for uid in uids)

    def unpause(self, uids: Sequence[str], holder: str = "") -> None:
        """Let these trials train again."""
        self._running.unpause(resident(uid, holder) for uid in uids)

    def leave(self, uid: str, holder: str = "") -> None:
        """Let a trial go; one that is not here is gone already."""
        self._leave(resident(uid, holder))

    def _leave(self, resident_uid: str) -> None:
        loop = self._running
        loop.call(lambda _: self._let_go(loop, resident_uid))

    def _let_go(self, loop: EngineLoop, resident_uid: str) -> None:
        """Between two steps."""
        loop.let_go(resident_uid)
        self._holders.pop(resident_uid, None)
        self._moving.discard(resident_uid)

    def insertions(
        self, source: DataSource, strategies: Sequence[Mapping[str, Any]], split: Split
    ) -> list[Insertion]:
        """Count what strategies insert into a split."""
        from trainable.items import insertion
        from trainable.strategy import InsertionStrategy

        data = self._encoded(source)
        read = [InsertionStrategy.from_dict(strategy) for strategy in strategies]
        return self._running.call(
            lambda engine: [insertion(engine, one, data, split) for one in read]
        )

    def exact_matches(
        self,
        source: DataSource,
        members: Sequence[tuple[Mapping[str, Any], bytes]],
        split: Split,
        rows_per_distance: int | None,
        metric: str,
    ) -> ItemScores:
        """Score trained strategies, each with its state, on a split, item by item."""
        from trainable.items import exact_matches
        from trainable.state import TrialState
        from trainable.strategy import InsertionStrategy

        data = self._encoded(source)
        read = [
            (InsertionStrategy.from_dict(strategy), TrialState.from_bytes(state).latents)
            for strategy, state in members
        ]
        return self._running.call(
            lambda engine: exact_matches(engine, read, data, split, rows_per_distance, metric)
        )

    def clock(self) -> dict[str, float]:
        """Where the engine's time went; see `LoopClock`."""
        return asdict(self._running.clock)

    def _encoded(self, source: DataSource) -> EncodedTask:
        from trainable.tasks import build_task

        key = json.dumps(asdict(source), sort_keys=True)
        if key not in self._data:
            engine = self._running.engine
            tokenizer, cache = engine.base.tokenizer, self._provisions.cache(source.cache)
            options = self._provisions.here(source.task)
            task = build_task(options, source.seed, tokenizer=tokenizer, cache=cache)
            self._data[key] = engine.encode(
                task,
                max_tokens=source.max_tokens,
                long_rows=source.long_rows,
            )
        return self._data[key]

    @property
    def _running(self) -> EngineLoop:
        with self._loading:
            if self._loop is None:
                # torch takes seconds to import, and only engines need it.
                from orchestrator.engines.loading import load_loop

                self._loop = load_loop(self._base, self._options, self._provisions.path)
            return self._loop

    def _refuse_earlier(self, holder: str, uid: str, attempt: int) -> None:
        """Have an attempt whose driver hung, and lost the search, wait: not push the next out.

        Raises:
            EngineFullError: if a later one has been here since its driver greeted.
        """
        with self._entering:
            _, last = self._attempts.get(uid, (holder, attempt))
            if attempt < last:
                raise EngineFullError(f"attempt {last} of {uid} has no room for attempt {attempt}")
            self._attempts[uid] = holder, attempt

    def _book(self, uid: str, holder: str, room: int | None) -> None:
        here = sum(one == holder for one in self._holders.values())
        if room is not None and here >= room:
            raise EngineFullError(f"this engine has {here} trials of {holder!r}, and no room")
        self._holders[uid] = holder

    def _clear(self, holder: str) -> None:
        """Let the trials go that a driver left behind."""
        with self._entering:
            self._attempts = {uid: n for uid, n in self._attempts.items() if n[0] != holder}
        for uid in [uid for uid, one in list(self._holders.items()) if one == holder]:
            self._leave(uid)

    def _end_when_unused(self, name: str) -> None:
        """End this actor once nobody has a lease; runs in a thread of its own."""
        while not self._leases.is_unused:
            self._let_expired_go()
            self._sleeping.wait(LEASE_S / _LOOKS)
        ray.kill(ray.get_actor(name, namespace=NAMESPACE), no_restart=True)

    def _let_expired_go(self) -> None:
        """Let the trials go whose driver renews its lease no more."""
        for holder in self._leases.expired():
            logger.warning("the driver of %s is gone: its trials leave", holder)
            # Aside, because a model that hangs lets nobody go.
            threading.Thread(target=self._clear, args=(holder,), daemon=True).start()
