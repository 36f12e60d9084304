"""B7: how near a fused step comes to what the machine can multiply.

FLOPs are 4 per parameter and token (forward, and backward without weight gradients; attention not
counted), executed: padding included, and useful: without it. The limit is the machine's rate at
the matrix products of that step, alone, in its dtype: the better of two ways, all cores on each
product of whole micro-batches, and the step's own micro-batches side by side. A profile of one
lane says where the rest went.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.finding import finding
from benchmarks.model_pass import Weights, matmuls_of, pass_of
from benchmarks.profiling import profile_of
from benchmarks.setting import Setting, run_row
from benchmarks.slots import Slots, count, rows_of_step
from benchmarks.timing import calls_within, in_turn
from benchmarks.workload import chains, config, fixed_rows, join_trials
from trainable.base_model.loading import BaseModel
from trainable.batch import micro_batches
from trainable.data import EncodedTask
from trainable.engine import Engine
from trainable.lanes import Lanes, lanes_for

TARGETS = {"cpu": 0.50, "cuda": 0.45}
TRIALS = 8
COMPILED: dict[str, Any] = {"compiled": True}


def main(argv: Sequence[str] = ()) -> None:
    """Measure, print and write."""
    run_row("limit", measure, argv)


def measure(setting: Setting) -> list[dict[str, Any]]:
    """The engine's step, the model's own pass eager and compiled, and the profile."""
    base = setting.base()
    batch_rows = 8 if setting.large else 16
    data = fixed_rows(base, 256) if setting.large else chains(base)
    engine = Engine(base)
    uids = join_trials(engine, data, TRIALS, batch_rows)
    configs = [config(place, batch_rows) for place in range(TRIALS)]
    rows = rows_of_step(engine, data, dict.fromkeys(range(TRIALS), 0), configs)
    whole = count(micro_batches(rows, engine.micro_batch_tokens))
    slots = count(engine.batches(rows))
    tokens = 256 if setting.large else 64
    full = max(1, engine.micro_batch_tokens // tokens)
    if setting.quick:
        full = 2
    sides: dict[str, Callable[[], object]] = {
        "step": lambda: engine.step(uids),
        "matmuls": matmuls_of(base, whole),  # all cores on each product
        "matmuls in lanes": matmuls_of(
            base, slots, Lanes(lanes_for(base.model, engine.micro_batch_tokens))
        ),
        "eager": pass_of(base, full, tokens),
    }
    if not setting.quick:
        sides["compiled"] = pass_of(base, full, tokens, compiled=True)
        compiled = Engine(base, **COMPILED)
        join_trials(compiled, data, TRIALS, batch_rows)
        sides["step, compiled"] = lambda: compiled.step(uids)
    calls = 1 if setting.quick else calls_within(sides["step"], 0.5)
    repeated = {name: _repeated(side, calls) for name, side in sides.items()}
    spent = in_turn(repeated, setting.repeats)
    weights = Weights.of(base.model)
    one_pass = Slots(full * tokens, full * tokens, full * (tokens // 4), 1)
    done = dict.fromkeys(spent, one_pass) | {"matmuls": whole, "step, compiled": whole}
    done |= {"step": slots, "matmuls in lanes": slots}
    flops = {name: weights.flops(s.executed, s.labelled) for name, s in done.items()}
    rates = {name: [calls * flops[name] / s for s in spent[name]] for name in spent}
    facts: dict[str, Any] = {
        "gflops": {name: statistics.median(r) / 1e9 for name, r in rates.items()}
    }
    useful = weights.flops(slots.useful, slots.labelled)
    limit = list(map(max, rates["matmuls"], rates["matmuls in lanes"]))
    target = TARGETS[setting.device]
    found = []
    for name in ("step", "step, compiled"):
        if name in rates:
            shares = _shares(rates[name], limit)
            found += [
                finding(f"fused {name}, executed", shares, target, **facts),
                finding(
                    f"fused {name}, useful", [useful / flops[name] * share for share in shares]
                ),
            ]
    found += [
        finding(f"the model's pass alone, {name}", _shares(rates[name], limit))
        for name in ("eager", "compiled")
        if name in rates
    ]
    return found + _profiled(_in_one_lane(base, data, batch_rows), setting)


def _in_one_lane(base: BaseModel, data: EncodedTask, batch_rows: int) -> Callable[[], object]:
    """The step as one lane computes it, on a thread of its own: a profile is of one thread."""
    engine = Engine(base, lanes=1)
    join_trials(engine, data, TRIALS, batch_rows)

    def step() -> None:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            engine.step()
        finally:
            torch.set_num_threads(threads)

    return step


def _repeated(side: Callable[[], object], calls: int) -> Callable[[], None]:
    def repeated() -> None:
        for _ in range(calls):
            side()

    return repeated


def _shares(rates: Sequence[float], limits: Sequence[float]) -> list[float]:
    return [rate / limit for rate, limit in zip(rates, limits, strict=True)]


def _profiled(step: Callable[[], object], setting: Setting) -> list[dict[str, Any]]:
    """Each kind of operation's share of a step's time, and the greatest single ones."""
    found = profile_of(step, setting.device)
    return [
        finding(f"profile: share of {kind}", [share], operations=found.operations)
        for kind, share in found.shares.items()
    ]


if __name__ == "__main__":
    main(sys.argv[1:])
