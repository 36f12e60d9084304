"""How fast an engine is on the machine at hand: a few steps of a few trials, timed.

Trials of the search's own space are trained together as the search would train them, for a
second or two, then scored on a few rows; nothing of it stays. Rates are per token, so that
they carry over to trials with longer layouts.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from trainable.data import EncodedTask, Split
from trainable.engine import Engine, TrialSpec
from trainable.errors import LatentuneError
from trainable.token_count import SURVEYED_ROWS, row_tokens, train_tokens
from trainable.trial import TrialConfig

_MOST_STEPS = 20
_HORIZON_STEPS = 1000  # of a schedule that is never run to its end


@dataclass(frozen=True)
class Calibration:
    """What was measured.

    Args:
        train_s_per_token: forward and backward, trials fused as in the search.
        score_s_per_token: one forward.
        memory_bytes: the most that the process had, or of a GPU, what torch had.
        device: where.
        took_s: the measurement itself.
    """

    train_s_per_token: float
    score_s_per_token: float
    memory_bytes: int
    device: str
    took_s: float


def calibrate(
    engine: Engine,
    data: EncodedTask,
    trials: Sequence[TrialConfig],
    splits: Sequence[Split],
    *,
    data_seed: int,
    seconds: float = 2.0,
) -> Calibration | None:
    """Time some steps of these trials together, and their scoring.

    Args:
        trials: as many as the search trains at once; those that an engine refuses are passed over.
        splits: what trials are scored on.
        seconds: of training, about; at least two steps.

    Returns:
        None where there is nothing to train.
    """
    began = time.perf_counter()
    few = data.thinned(SURVEYED_ROWS)
    names = {f"calibration-{place}": trial for place, trial in enumerate(trials)}
    slots = replace(engine.slots)
    joined = [uid for uid, trial in names.items() if _joins(engine, uid, trial, few, data_seed)]
    try:
        train_s = _train(engine, few, {u: names[u] for u in joined}, data_seed, seconds)
        score_s = _score(engine, few, {u: names[u] for u in joined}, splits)
    finally:
        for uid in joined:
            engine.leave(uid)
        engine.slots = slots  # the search's own count
    if train_s is None:
        return None
    device = engine.base.model.device
    return Calibration(
        train_s, score_s, _memory_bytes(device), str(device), time.perf_counter() - began
    )


def _joins(engine: Engine, uid: str, trial: TrialConfig, data: EncodedTask, data_seed: int) -> bool:
    try:
        engine.join(TrialSpec(uid, trial, _HORIZON_STEPS, data_seed), data)
    except LatentuneError:  # the search will tell
        return False
    return True


def _train(
    engine: Engine,
    data: EncodedTask,
    trials: dict[str, TrialConfig],
    data_seed: int,
    seconds: float,
) -> float | None:
    """Seconds per token of training; the first step warms up and is not counted."""
    uids = [uid for uid, trial in trials.items() if trial.strategy.triggers]
    if not uids:
        return None
    engine.step(uids)
    begin, steps = time.perf_counter(), 0
    while steps < 2 or (time.perf_counter() - begin < seconds and steps < _MOST_STEPS):
        engine.step(uids)
        steps += 1
    took_s = time.perf_counter() - begin
    tokens = sum(
        train_tokens(
            trials[uid],
            engine.resolve(trials[uid].strategy),
            data,
            data_seed=data_seed,
            begin=1,
            end=1 + steps,
        )
        for uid in uids
    )
    return took_s / tokens


def _score(
    engine: Engine, data: EncodedTask, trials: dict[str, TrialConfig], splits: Sequence[Split]
) -> float:
    begin = time.perf_counter()
    engine.evaluate(list(trials), splits)
    took_s = time.perf_counter() - begin
    tokens = sum(
        row_tokens(engine.resolve(trial.strategy), row)
        for trial in trials.values()
        for split in splits
        for row in data.rows(split)
    )
    return took_s / tokens


def _memory_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
