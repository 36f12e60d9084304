"""How many tokens a micro-batch should have on a CPU: the step at other sizes, over 2,048."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from benchmarks.finding import finding
from benchmarks.setting import Setting, run_row
from benchmarks.timing import in_turn, ratios
from benchmarks.workload import chains, join_trials
from trainable.engine import Engine

DEFAULT = 2048
SIZES = (512, 1024, 4096, 8192, 16384)
TRIALS, BATCH_ROWS = 16, 16  # about 16,000 tokens per step


def main(argv: Sequence[str] = ()) -> None:
    """Measure, print and write."""
    run_row("micro-batches", measure, argv)


def measure(setting: Setting) -> list[dict[str, Any]]:
    """The same step, cut differently."""
    base = setting.base()
    data = chains(base)
    sizes = (512,) if setting.quick else SIZES
    batch_rows = 1 if setting.quick else BATCH_ROWS
    sides: dict[str, Callable[[], object]] = {}
    for size in (DEFAULT, *sizes):
        engine = Engine(base, micro_batch_tokens=size)
        uids = join_trials(engine, data, TRIALS, batch_rows)
        sides[str(size)] = partial(engine.step, uids)
    spent = in_turn(sides, setting.repeats)
    return [
        finding(f"{size:,} tokens over {DEFAULT:,}", ratios(spent[str(size)], spent[str(DEFAULT)]))
        for size in sizes
    ]


if __name__ == "__main__":
    main(sys.argv[1:])
