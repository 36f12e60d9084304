"""An engine behind a Ray actor: one frozen model in one process, shared by many thin trials.

Actors are named by the base model's source and options, so that trials and drivers find
them. One thread inside owns the model (`trainable.loop`); every call waits its turn.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from orchestrator.assignment import Assignment, DataSource
from trainable.errors import LatentuneError

if TYPE_CHECKING:
    from trainable.data import EncodedTask, Split
    from trainable.item_scores import Insertion, ItemScores
    from trainable.loop import EngineLoop

NAMESPACE = "latentune"
_CALLS_AT_ONCE = 512  # each waiting trial holds one
_RESTARTS = 3
# Threads that wait give their core away. Spinning ones cost nothing on an idle machine and
# made a step 1.8 times slower with one other busy process on two cores.
_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}


class EngineActor:
    """The actor's class; `open_engine` makes one.

    The model is loaded by the first call and not by the constructor, so that what is wrong
    with it reaches the caller as it is, and an actor that Ray restarted loads it again.

    Args:
        base: keyword arguments of `load_base`.
        options: `threads` (None: all cores), and keyword arguments of `Engine`; of those, `compile`
            stands for `compiled`.
    """

    def __init__(self, base: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        self._base = base
        self._options = options
        self._loading = threading.Lock()
        self._loop: EngineLoop | None = None
        self._data: dict[str, EncodedTask] = {}
        self._leases: set[str] = set()

    def lease(self, search: str) -> None:
        """Note that a search uses this engine."""
        self._leases.add(search)

    def release(self, search: str) -> bool:
        """Note that a search has ended; returns whether no other uses this engine."""
        self._leases.discard(search)
        return not self._leases

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
    ) -> dict[str, Any]:
        """What configurations cost on a task's rows, and how fast the engine is here.

        Args:
            configs: `TrialConfig.to_dict()` of a sample.
            fused: how many of them are timed together.

        Returns:
            `survey`, a `Survey`, and `calibration`, a `Calibration` or None, as plain data.
        """
        from trainable.calibration import calibrate
        from trainable.delimiters import Vocabulary
        from trainable.token_count import survey
        from trainable.trial import TrialConfig

        data, trials = self._encoded(source), [TrialConfig.from_dict(one) for one in configs]
        scored: Any = [split for split in splits if split in data.splits]
        base = self._running.engine.base
        vocabulary = Vocabulary(base.tokenizer, base.model.config.get_text_config().vocab_size)
        found = survey(trials, vocabulary, data, scored, source.seed)
        measured = self._running.call(
            lambda engine: calibrate(engine, data, trials[:fused], scored, data_seed=source.seed)
        )
        return {
            "survey": asdict(found),
            "calibration": None if measured is None else asdict(measured),
        }

    def join(self, assignment: Assignment, state: bytes | None) -> None:
        """Take a trial in, in place of an earlier attempt of the same uid."""
        from trainable.engine import Engine, TrialSpec
        from trainable.state import TrialState
        from trainable.trial import TrialConfig

        source = DataSource(**assignment.data)
        spec = TrialSpec(
            uid=assignment.uid,
            config=TrialConfig.from_dict(assignment.config),
            budget_steps=assignment.rungs[-1],
            data_seed=source.seed if assignment.stream_seed is None else assignment.stream_seed,
            max_tokens=source.max_tokens,
            long_rows=source.long_rows,  # type: ignore[arg-type]
            times_decoding=assignment.times_decoding,
        )
        restored = None if state is None else TrialState.from_bytes(state)

        def enter(engine: Engine) -> None:
            engine.join(spec, self._encoded(source), restored)

        self.leave(spec.uid)  # what waits for the earlier attempt is told
        self._running.call(enter)

    def train(self, uid: str, until_step: int, splits: Sequence[str]) -> dict[str, Any]:
        """Train to a step and score; the report as plain data, its state as bytes."""
        report = self._running.train(uid, until_step, splits)  # type: ignore[arg-type]
        return {
            "step": report.step,
            "metrics": report.metrics,
            "curve": report.curve,
            "state": report.state.to_bytes(),
            "paused": report.paused,
        }

    def pause(self, uids: Sequence[str]) -> None:
        """Answer the waiting calls of these trials now, and their later ones at once."""
        self._running.pause(uids)

    def unpause(self, uids: Sequence[str]) -> None:
        """Let these trials train again."""
        self._running.unpause(uids)

    def leave(self, uid: str) -> None:
        """Let a trial go; one that is not here is gone already."""
        if uid in self._running.call(lambda engine: engine.trials()):
            self._running.leave(uid)

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
            lambda engine: exact_matches(engine, read, data, split, rows_per_distance)
        )

    def clock(self) -> dict[str, float]:
        """Where the engine's time went; see `LoopClock`."""
        return asdict(self._running.clock)

    def _encoded(self, source: DataSource) -> EncodedTask:
        from trainable.tasks import build_task

        key = json.dumps(asdict(source), sort_keys=True)
        if key not in self._data:
            engine = self._running.engine
            tokenizer, cache = engine.base.tokenizer, Path(source.cache)
            task = build_task(source.task, source.seed, tokenizer=tokenizer, cache=cache)
            self._data[key] = engine.encode(
                task,
                max_tokens=source.max_tokens,
                long_rows=source.long_rows,  # type: ignore[arg-type]
            )
        return self._data[key]

    @property
    def _running(self) -> EngineLoop:
        with self._loading:
            if self._loop is None:
                self._loop = self._load()
            return self._loop

    def _load(self) -> EngineLoop:
        # torch takes seconds to import, and only engines need it.
        import torch

        from trainable.base_model.loading import load_base
        from trainable.engine import Engine
        from trainable.loop import EngineLoop

        options = dict(self._options)
        torch.set_num_threads(options.pop("threads") or os.cpu_count() or 1)
        compiled = options.pop("compile", False)
        # Several threads add a group's gradients in the order in which they come, otherwise.
        torch.use_deterministic_algorithms(options.get("deterministic", False))
        return EngineLoop(Engine(load_base(**self._base), compiled=compiled, **options))


def open_engine(
    base: Mapping[str, Any], options: Mapping[str, Any]
) -> tuple[str, Any, dict[str, Any]]:
    """Find the engine for a base model, or start it, and wait until it holds the model.

    Returns:
        The engine's name, its handle and what identifies its model.

    Raises:
        BaseModelError: as `EngineActor.describe`.
    """
    key = hashlib.sha256(json.dumps([dict(base), dict(options)], sort_keys=True).encode())
    name = f"engine/{key.hexdigest()[:16]}/0"
    handle: Any = (
        ray.remote(EngineActor)
        .options(
            name=name,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=1,
            num_gpus=gpus_for(base),
            max_concurrency=_CALLS_AT_ONCE,
            max_restarts=_RESTARTS,
            runtime_env={"env_vars": _ENVIRONMENT},
        )
        .remote(dict(base), dict(options))
    )
    try:
        return name, handle, ask_engine(handle.describe)
    except LatentuneError:
        ray.kill(handle)  # it holds no model
        raise


def gpus_for(base: Mapping[str, Any]) -> int:
    """The GPUs of an engine: one where there is any; a whole node's for a model spread out."""
    device_map = base.get("device_map")
    places = device_map.values() if isinstance(device_map, Mapping) else [device_map]
    if base["device"] == "cpu" or set(places) == {"cpu"}:
        return 0
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    counts = [int(node["Resources"].get("GPU", 0)) for node in nodes if node["Alive"]]
    most = max(counts, default=0)
    return min(1, most) if device_map is None else most


def ask_engine(method: Any, *arguments: Any) -> Any:
    """Call an engine and wait; what it raises comes without the actor's traceback."""
    try:
        return ray.get(method.remote(*arguments))
    except RayTaskError as error:
        if isinstance(error.cause, LatentuneError):
            raise error.cause from None
        raise


@contextmanager
def leased_engine(
    base: Mapping[str, Any], options: Mapping[str, Any], search: str
) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """An engine for as long as a search needs it; one that no search uses any more ends.

    Yields:
        As `open_engine` returns. Raises what it raises.
    """
    name, handle, base_model = open_engine(base, options)
    try:
        ray.get(handle.lease.remote(search))
        yield name, handle, base_model
    finally:
        with suppress(RayActorError):  # it may be gone already
            if ray.get(handle.release.remote(search)):
                ray.kill(handle)
