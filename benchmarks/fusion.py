"""Fusion: trial-steps per second of T trials in one batch, over one at a time.

Both sides run in one process on one engine, in turn (A B A B ...); the ratio is taken pair
by pair and its median is quoted, so that a drifting machine moves both sides alike.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks import machine
from trainable.base_model.loading import load_base
from trainable.data import EncodedTask
from trainable.engine import Engine, TrialSpec
from trainable.tasks import build_task
from trainable.trial import TrialConfig

TRIALS = 8
REPEATS = 5
STEPS = 6  # per repeat and trial
TRIGGERS: tuple[dict[str, Any], ...] = (
    {"start": {"kind": "start", "m": 4}},
    {"end": {"kind": "end", "m": 4}},
    {"comma": {"kind": "delimiter", "m": 2}},
    {"every": {"kind": "every", "k": 8, "m": 2}},
)


def main() -> None:
    """Print one line per batch size and write the numbers."""
    found = machine.facts()
    base = load_base("bundled")
    rows = [measure(Engine(base), base.tokenizer, batch_rows) for batch_rows in (1, 4, 16)]
    path = machine.write("fusion", rows, found)
    out = sys.stdout.write
    out(f"{TRIALS} trials fused over one at a time, {found['processor']}, {found['cores']} cores\n")
    out("rows per trial-step   alone [steps/s]   fused [steps/s]   ratio (min to max)\n")
    for row in rows:
        out(
            f"{row['batch_rows']:>19}   {row['alone_per_s']:>15.1f}   {row['fused_per_s']:>15.1f}"
            f"   {row['ratio']:.2f} ({row['ratio_min']:.2f} to {row['ratio_max']:.2f})\n"
        )
    out(f"written to {path.relative_to(path.parent.parent.parent)}\n")


def measure(engine: Engine, tokenizer: Any, batch_rows: int) -> dict[str, Any]:
    """Time both sides at one batch size."""
    data = EncodedTask(build_task({"kind": "generation"}, seed=0), tokenizer)
    uids = [f"trial-{place}" for place in range(TRIALS)]
    for place, uid in enumerate(uids):
        strategy = {"triggers": TRIGGERS[place % len(TRIGGERS)]}
        options = {"strategy": strategy, "optim": {"batch_rows": batch_rows}, "seed": place}
        engine.join(TrialSpec(uid, TrialConfig.from_dict(options), 10_000), data)
    alone = [[uid] for uid in uids]
    fused = [uids]
    for groups in (alone, fused):
        _seconds(engine, groups)  # warm-up
    pairs = [(_seconds(engine, alone), _seconds(engine, fused)) for _ in range(REPEATS)]
    ratios = [slow / fast for slow, fast in pairs]
    done = TRIALS * STEPS
    return {
        "batch_rows": batch_rows,
        "trials": TRIALS,
        "alone_per_s": done / statistics.median(slow for slow, _ in pairs),
        "fused_per_s": done / statistics.median(fast for _, fast in pairs),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "repeats": REPEATS,
    }


def _seconds(engine: Engine, groups: Sequence[Sequence[str]]) -> float:
    begin = time.perf_counter()
    for group in groups:
        for _ in range(STEPS):
            engine.step(group)
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
