"""G0: does training together change a result?

Loss curves, fused against alone, may differ no more than those of two alone runs whose
micro-batches were cut differently: rounding is all that there is. The final order of the trials is
compared by Kendall's tau. And trial 0's gradient must stay the same to the last bit when the
latents of all its neighbours become others.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.finding import finding
from benchmarks.setting import Setting, run_row
from benchmarks.workload import chains, config, fixed_rows, join_trials
from trainable.base_model.loading import BaseModel
from trainable.data import EncodedTask
from trainable.engine import Engine, TrialSpec

TAU = 0.95
NOISE = 1.1  # two estimates of the same noise agree no better than that
BATCH_ROWS = 2
EARLY = 0.3  # of the steps: before rounding has been amplified

Curves = dict[str, list[float]]


def main(argv: Sequence[str] = ()) -> None:
    """Measure, print and write."""
    run_row("fidelity", measure, argv)


def measure(setting: Setting) -> list[dict[str, Any]]:
    """The three checks, on the same trials."""
    base = setting.base()
    data = fixed_rows(base, 128) if setting.large else chains(base, val_rows=16)
    trials, steps = (3, 4) if setting.quick else (16, 60)
    one_row = max(map(int, data.lengths("train"))) + 1  # micro-batches of a row each
    runs = [
        _run(Engine(base, micro_batch_tokens=tokens), data, trials, steps, together=together)
        for tokens, together in ((None, True), (None, False), (one_row, False))
    ]
    (fused, fused_nll), (alone, alone_nll), (cut, cut_nll) = runs
    facts: dict[str, Any] = {"trials": trials, "steps": steps, "batch_rows": BATCH_ROWS}
    return [
        _curves(f"loss curves, first {EARLY:.0%} of steps", fused, alone, cut, EARLY, **facts),
        _curves("loss curves, all steps", fused, alone, cut, 1.0, **facts),
        finding(
            "ranking, Kendall's tau of fused and alone",
            [kendall_tau(fused_nll, alone_nll)],
            TAU,
            between_alone_runs=kendall_tau(alone_nll, cut_nll),
            **facts,
        ),
        finding(
            "greatest change of a trial's gradient by its neighbours",
            [crossing(base, data)],
            0.0,
            "at most",
            **facts,
        ),
    ]


def _run(
    engine: Engine, data: EncodedTask, trials: int, steps: int, *, together: bool
) -> tuple[Curves, list[float]]:
    uids = join_trials(engine, data, trials, BATCH_ROWS, budget_steps=steps)
    groups = [uids] if together else [[uid] for uid in uids]
    curves: Curves = {uid: [] for uid in uids}
    for group in groups:
        for _ in range(steps):
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


def crossing(base: BaseModel, data: EncodedTask) -> float:
    """How much trial 0's gradient depends on what its neighbours' latents are."""
    engine = Engine(base)
    uids = join_trials(engine, data, 4, BATCH_ROWS)
    before = engine.gradients(uids)[0]
    noise = np.random.default_rng(0)
    for place, uid in enumerate(uids[1:], start=1):
        state = engine.state(uid)
        others = noise.normal(size=state.latents.shape).astype(np.float32)
        engine.leave(uid)
        engine.join(
            TrialSpec(uid, config(place, BATCH_ROWS), 10_000), data, replace(state, latents=others)
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
