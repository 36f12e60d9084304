"""G0: does training together change a result?

Loss curves, fused against alone, may differ no more than those of two alone runs whose
micro-batches were cut differently: rounding is all that there is. The final order of the trials is
compared by Kendall's tau. And trial 0's gradient must stay the same to the last bit when the
latents of all its neighbours become others. So with the engine's defaults over many steps, and,
over few, in each way of computing that the other benchmarks time; trials are of four strategies
always.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from benchmarks.finding import finding
from benchmarks.setting import Setting, run_row
from benchmarks.workload import chains, config, fixed_rows, join_trials
from trainable.base_model.loading import BaseModel
from trainable.data import EncodedTask
from trainable.engine import Engine, TrialSpec

TAU = 0.95
NOISE = 1.1  # two estimates of the same noise agree no better than that
EARLY = 0.3  # of the steps: before rounding has been amplified

Curves = dict[str, list[float]]


@dataclass(frozen=True)
class Way:
    """One way of computing the same trials.

    Args:
        name: in words.
        batch_rows: of each trial.
        engine: the options of its engines.
        cut: further options of the second alone run, whose micro-batches are of a row each: where a
            trial has one row, that alone would cut nothing, and a prefix is computed the same.
    """

    name: str
    batch_rows: int = 2
    trials: int = 8
    steps: int = 10
    engine: Mapping[str, Any] = field(default_factory=dict)
    cut: Mapping[str, Any] = field(default_factory=dict)


DEFAULT = Way("2 rows per trial-step", trials=16, steps=45)
BFLOAT16 = Way("products in bfloat16", engine={"precision": "bfloat16"})
COMPILED = Way("compiled", engine={"compiled": True})
OTHERS = (
    Way("1 row per trial-step", batch_rows=1, cut={"share_prefixes": "on"}),
    Way("16 rows per trial-step, in several micro-batches", batch_rows=16, steps=5),
    Way("micro-batches of 256 tokens", engine={"micro_batch_tokens": 256}),
    Way("two of 128 tokens at a time", engine={"micro_batch_tokens": 256, "lanes": 2}),
    Way(
        "prefixes shared wherever there are any",
        engine={"share_prefixes": "on"},
        cut={"share_prefixes": "off"},
    ),
    Way("no prefix shared", engine={"share_prefixes": "off"}),
    Way("one micro-batch at a time", engine={"lanes": 1}),
)


def main(argv: Sequence[str] = ()) -> None:
    """Measure, print and write."""
    run_row("fidelity", measure, argv)


def measure(setting: Setting) -> list[dict[str, Any]]:
    """The three checks on the same trials, in each way."""
    base = setting.base()
    data = fixed_rows(base, 128) if setting.large else chains(base, val_rows=16)
    if setting.quick:
        ways = [replace(way, trials=3, steps=3, batch_rows=2) for way in (DEFAULT, OTHERS[-1])]
    else:
        ways = [DEFAULT, *OTHERS, *optional_ways(base)]
    return [found for way in ways for found in checked(base, data, way)]


def checked(base: BaseModel, data: EncodedTask, way: Way) -> list[dict[str, Any]]:
    """Loss curves, ranking and gradients in one way of computing."""
    one_row = max(map(int, data.lengths("train"))) + 1  # micro-batches of a row each
    whole = {**way.engine, "lanes": 1}  # lanes would cut two rows alone, as the second run does
    rows = {**whole, "micro_batch_tokens": one_row, **way.cut}
    runs = [
        _run(Engine(base, **options), data, way, together=together)
        for options, together in ((way.engine, True), (whole, False), (rows, False))
    ]
    (fused, fused_nll), (alone, alone_nll), (cut, cut_nll) = runs
    facts: dict[str, Any] = {
        "trials": way.trials, "steps": way.steps, "batch_rows": way.batch_rows, "way": way.name,
    }  # fmt: skip
    shares = {f"first {EARLY:.0%} of {way.steps} steps": EARLY, f"all {way.steps} steps": 1.0}
    return [
        *(
            _curves(f"{way.name}: loss curves, {which}", fused, alone, cut, share, **facts)
            for which, share in shares.items()
            if way is DEFAULT or share == 1.0  # few steps are early ones
        ),
        finding(
            f"{way.name}: ranking, Kendall's tau of fused and alone",
            [kendall_tau(fused_nll, alone_nll)],
            TAU,
            between_alone_runs=kendall_tau(alone_nll, cut_nll),
            **facts,
        ),
        finding(
            f"{way.name}: greatest change of a trial's gradient by its neighbours",
            [crossing(base, data, way)],
            0.0,
            "at most",
            **facts,
        ),
    ]


def optional_ways(base: BaseModel) -> list[Way]:
    """Ways that not every base model and machine can go."""
    ways = [BFLOAT16] if base.model.dtype == torch.float32 else []
    return [*ways, COMPILED] if shutil.which(os.environ.get("CXX", "g++")) else ways


def _run(
    engine: Engine, data: EncodedTask, way: Way, *, together: bool
) -> tuple[Curves, list[float]]:
    uids = join_trials(engine, data, way.trials, way.batch_rows, budget_steps=way.steps)
    groups = [uids] if together else [[uid] for uid in uids]
    curves: Curves = {uid: [] for uid in uids}
    for group in groups:
        for _ in range(way.steps):
            for uid, loss in engine.step(group).items():
                curves[uid].append(loss)
    scores = engine.evaluate(uids, ["val_id"])
    return curves, [scores[uid]["val_id/nll"] for uid in uids]


def _curves(
    case: str, fused: Curves, alone: Curves, cut: Curves, share: float, **facts: Any
) -> dict[str, Any]:
    """The mean difference of fused and alone, over that of two alone runs."""
    ours = (distance(fused, alone, share) + distance(fused, cut, share)) / 2
    noise = distance(alone, cut, share)
    quotient = ours / noise if noise else (0.0 if ours == 0 else float("inf"))
    return finding(
        f"{case}: fused to alone, over alone to alone",
        [quotient],
        NOISE,
        "at most",
        fused_to_alone=ours,
        alone_to_alone=noise,
        **facts,
    )


def distance(one: Curves, other: Curves, share: float) -> float:
    """Root mean square of the difference of two runs' losses, over trials and steps."""
    squares = [
        (a - b) ** 2
        for uid in one
        for a, b in list(zip(one[uid], other[uid], strict=True))[: _first(share, len(one[uid]))]
    ]
    return float(np.sqrt(np.mean(squares)))


def _first(share: float, steps: int) -> int:
    return max(1, round(share * steps))


def crossing(base: BaseModel, data: EncodedTask, way: Way = DEFAULT) -> float:
    """How much trial 0's gradient depends on what its neighbours' latents are."""
    engine = Engine(base, **way.engine)
    uids = join_trials(engine, data, 4, way.batch_rows)
    before = engine.gradients(uids)[0]
    noise = np.random.default_rng(0)
    for place, uid in enumerate(uids[1:], start=1):
        state = engine.state(uid)
        others = noise.normal(size=state.latents.shape).astype(np.float32)
        engine.leave(uid)
        engine.join(
            TrialSpec(uid, config(place, way.batch_rows), 10_000),
            data,
            replace(state, latents=others),
        )
    after = engine.gradients(uids)[0]
    return float((before - after).abs().max())


def kendall_tau(one: Sequence[float], other: Sequence[float]) -> float:
    """Kendall's tau-a of two scorings of the same things."""
    pairs = list(itertools.combinations(range(len(one)), 2))
    signs = [np.sign(one[i] - one[j]) * np.sign(other[i] - other[j]) for i, j in pairs]
    return float(sum(signs)) / len(pairs)


if __name__ == "__main__":
    main(sys.argv[1:])
