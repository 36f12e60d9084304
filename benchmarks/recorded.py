"""Record the losses of 64 trials at their rungs, and what early stopping makes of them.

Benchmarks of scheduling need decisions that are real and the same on every machine: these come
from training 64 configurations to the end on the bundled model, once. `python -m
benchmarks.recorded` does it again; nothing in it is timed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence

from benchmarks import machine
from benchmarks.setting import Setting
from benchmarks.workload import chains, join_trials
from trainable.engine import Engine

TRIALS = 64
RUNGS = (10, 30, 90)
FACTOR = 3
BATCH_ROWS = 2
PATH = machine.RESULTS / "recorded-losses.json"

Losses = Sequence[Sequence[float]]  # per trial, one at each rung


def main() -> None:
    """Train, score at each rung, and write the losses."""
    base = Setting().base()
    engine = Engine(base)
    data = chains(base, val_rows=8)
    uids = join_trials(engine, data, TRIALS, BATCH_ROWS, budget_steps=RUNGS[-1])
    losses: dict[str, list[float]] = {uid: [] for uid in uids}
    for step in range(1, RUNGS[-1] + 1):
        engine.step()
        if step in RUNGS:
            for uid, scores in engine.evaluate(uids, ["val_id"]).items():
                losses[uid].append(round(scores["val_id/nll"], 5))
    table: Mapping[str, object] = {"rungs": RUNGS, "val_id/nll": list(losses.values())}
    PATH.write_text(json.dumps(table) + "\n")
    sys.stdout.write(f"{TRIALS} trials; last steps {sorted(last_steps(list(losses.values())))}\n")


def recorded_losses() -> list[list[float]]:
    """The stored losses."""
    found: list[list[float]] = json.loads(PATH.read_text())["val_id/nll"]
    return found


def last_steps(losses: Losses) -> list[int]:
    """Where asynchronous successive halving ends each trial, reports coming in their order.

    A trial goes on from a rung where its loss is among the best third of those seen there.
    """
    seen: list[list[float]] = [[] for _ in RUNGS]
    return [RUNGS[_last_rung(trial, seen)] for trial in losses]


def goes_on(loss: float, seen: Sequence[float], factor: int = FACTOR) -> bool:
    """Whether a trial is among the best of those seen at its rung, itself included.

    One in `factor` is, and of the first few one: the rule of Optuna's `SuccessiveHalvingPruner`.
    """
    return loss <= sorted(seen)[max(1, len(seen) // factor) - 1]


def _last_rung(trial: Sequence[float], seen: list[list[float]]) -> int:
    for rung, loss in enumerate(trial[:-1]):
        seen[rung].append(loss)
        if not goes_on(loss, seen[rung]):
            return rung
    return len(RUNGS) - 1


if __name__ == "__main__":
    main()
