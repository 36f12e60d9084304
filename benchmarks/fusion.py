"""B1: trial-tokens per second of T trials in one batch, over one trial at a time.

Both sides run in one process on one engine, in turn; the ratio is taken pair by pair and its
median is quoted. Tokens are the same on both sides, so the ratio of seconds is that of tokens
per second.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.finding import finding
from benchmarks.setting import Setting, run_row
from benchmarks.timing import calls_within, in_turn, ratios
from benchmarks.workload import chains, fixed_rows, join_trials
from trainable.base_model.loading import BaseModel
from trainable.data import EncodedTask
from trainable.engine import Engine

TRIALS = (1, 8, 64)
SIDE_S = 0.5  # a side of a repeat takes about this long, or one step
# Rows per trial-step and tokens per row, with the ratio to reach at the most trials.
CPU_LOADS = ((1, None, 2.5), (4, None, 1.5), (16, None, 1.0))
GPU_LOADS = ((1, 128, 4.0), (8, 256, 1.5), (64, 256, 0.95))


def main(argv: Sequence[str] = ()) -> None:
    """Measure, print and write."""
    run_row("fusion", measure, argv)


def measure(setting: Setting) -> list[dict[str, Any]]:
    """Each load at each number of trials."""
    base = setting.base()
    loads: Sequence[tuple[int, int | None, float]] = GPU_LOADS if setting.large else CPU_LOADS
    trials = (2,) if setting.quick else TRIALS
    if setting.quick:
        loads = loads[:1]
    chained = chains(base)
    return [
        one_case(setting, base, chained if tokens is None else fixed_rows(base, tokens), load, t)
        for load in loads
        for tokens in [load[1]]
        for t in trials
    ]


def one_case(
    setting: Setting,
    base: BaseModel,
    data: EncodedTask,
    load: tuple[int, int | None, float],
    trials: int,
) -> dict[str, Any]:
    """Time both sides at one load."""
    batch_rows, tokens, target = load
    engine = Engine(base)
    uids = join_trials(engine, data, trials, batch_rows)
    steps = 1 if setting.quick else calls_within(lambda: engine.step(uids), SIDE_S)

    def alone() -> None:
        for uid in uids:
            for _ in range(steps):
                engine.step([uid])

    def fused() -> None:
        for _ in range(steps):
            engine.step(uids)

    spent = in_turn({"alone": alone, "fused": fused}, setting.repeats)
    done = trials * steps
    unit = f"{batch_rows} rows" if tokens is None else f"{batch_rows * tokens:,} tokens"
    return finding(
        f"{trials} trials, {unit} per trial-step",
        ratios(spent["alone"], spent["fused"]),
        target if trials == max(TRIALS) else None,
        batch_rows=batch_rows,
        tokens=tokens,
        trials=trials,
        alone_per_s=done / statistics.median(spent["alone"]),
        fused_per_s=done / statistics.median(spent["fused"]),
    )


if __name__ == "__main__":
    main(sys.argv[1:])
