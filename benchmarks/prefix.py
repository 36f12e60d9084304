"""Prefix sharing: seconds per step without over with it, by where the first site stands.

    row     a a a a a a a # b b b b b b b b | c c c c        # is the site, at p of the row
            |--- p ---|                       `- labels: the last quarter, wherever # stands

All trials read the same rows, each with its own latents, all before the same `#`: so a step
with sharing (`auto`) computes p of each row once, without gradient, and the rest of it once per
trial. A forward without gradient costs half of a step, so with T trials the best that can be had
is near 1 / (1 - p + p / 2T); less, as a tail attends to its prefix in any case, which counts the
more the longer the rows and the narrower the model. Evaluation, which has no backward, is timed
as well. Both sides run in one process, in turn (A B A B ...); the ratio is taken pair by pair and
its median is quoted, so that a drifting machine moves both sides alike. On a CPU one thread, and
the CPU seconds of this process: they are the time that it takes on an idle machine.

    python -m benchmarks.prefix                                  # CPU, bundled base
    python -m benchmarks.prefix --device cuda --shape 1b         # Llama-3.2-1B's shape, bf16
    python -m benchmarks.prefix --shape tiny --quick             # does it work at all?
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks import machine
from benchmarks.profiling import profile_of
from benchmarks.setting import Setting
from trainable.base_model.loading import BaseModel
from trainable.base_model.tokenizer import build_tokenizer
from trainable.data import EncodedRow, EncodedTask, Example, Ints, Split
from trainable.engine import Engine, TrialSpec
from trainable.prefix_plan import Sharing
from trainable.trial import TrialConfig

TRIALS = 16
REPEATS = 5
REPEATS_AT_0 = 3  # times as many: both sides do the same there, and the limit is 2% from 1
SHARES = (0.0, 0.25, 0.5, 0.75)
MARK, M = "#", 2  # the delimiter of all sites, and its latents
LABELS = 0.25  # of the row
# Tokens of a row, and rows per trial and step.
SIZES = {"bundled": ((64, 8), (256, 2)), "tiny": ((64, 1),), "1b": ((512, 4), (2048, 1))}
QUICK_SIZES = ((64, 1),)


def main(arguments: Sequence[str] = ()) -> None:
    """Print one line per length and place of the first site, and write the numbers."""
    parser = argparse.ArgumentParser(description="step time without over with shared prefixes")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--shape", default="bundled", choices=sorted(SIZES))
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--quick", action="store_true")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found = machine.facts() | {"device": chosen.device, "shape": chosen.shape}
    if chosen.device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
    setting = Setting(chosen.device, chosen.shape, chosen.quick)
    base = setting.base()
    out = sys.stdout.write
    out(f"{TRIALS} trials, {chosen.shape} base, {found.get('gpu', found['processor'])}\n")
    out(
        "tokens  rows  first site  off [ms]  ratio (min to max)  of 1/(1-p)  of slots  evaluation\n"
    )
    rows = []
    sizes = QUICK_SIZES if chosen.quick else SIZES[chosen.shape]
    for length, batch_rows in sizes:
        for share in SHARES:
            if chosen.quick:  # too small for sharing to pay, so that it would not be chosen
                row = measure(base, length, batch_rows, share, 1, "on")
            else:
                repeats = chosen.repeats * (1 if share else REPEATS_AT_0)
                row = measure(base, length, batch_rows, share, repeats)
            rows.append(row)
            missed = "" if row["within"] else "  MISSED"
            out(
                f"{length:>6}  {batch_rows:>4}  {share:>10.0%}  {row['off_ms']:>8.1f}  "
                f"{row['ratio']:.2f} ({row['ratio_min']:.2f} to {row['ratio_max']:.2f})  "
                f"{row['of_limit']:>10.0%}  {row['ratio'] / row['slots_limit']:>8.0%}  "
                f"{row['evaluation_ratio']:>10.2f}{missed}\n"
            )
    path = machine.write(setting.result("prefix"), rows, found)
    out(f"written to {path.relative_to(path.parent.parent.parent)}\n")


def measure(
    base: BaseModel,
    length: int,
    batch_rows: int,
    share: float,
    repeats: int = REPEATS,
    sharing: Sharing = "auto",
) -> dict[str, Any]:
    """Time steps and evaluations without and with sharing."""
    task = MarkedRows(length, round(share * length), 4 * batch_rows)
    data = EncodedTask(task, base.tokenizer)
    without, shared = (_engine(base, data, batch_rows, how) for how in ("off", sharing))
    steps = _pairs(without.step, shared.step, repeats)
    uids = without.trials()
    scores = _pairs(
        lambda: without.evaluate(uids, ["val_id"]), lambda: shared.evaluate(uids, ["val_id"]), 3
    )
    ratios = [slow / fast for slow, fast in steps]
    ratio, limit = statistics.median(ratios), 1 / (1 - share)
    return {
        "trials": TRIALS,
        "tokens": length,
        "batch_rows": batch_rows,
        "micro_batch_tokens": without.micro_batch_tokens,
        "first_site": share,
        "off_ms": 1000 * statistics.median(slow for slow, _ in steps),
        "on_ms": 1000 * statistics.median(fast for _, fast in steps),
        "ratio": ratio,
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "of_limit": ratio / limit,
        "slots_limit": _slots_limit(length, round(share * length)),
        "within": ratio >= (0.8 * limit if share else 0.98),
        "evaluation_ratio": statistics.median(slow / fast for slow, fast in scores),
        "repeats": repeats,
        "profile": profile_of(shared.step, base.model.device.type).shares,
    }


class MarkedRows:
    """Random rows with one mark each, at the same place.

    Args:
        length: tokens of a row.
        mark: where the mark stands.
        count: rows of each split.
    """

    splits: tuple[Split, ...] = ("train", "val_id")
    answer_metrics: Mapping[str, Any] = {}

    def __init__(self, length: int, mark: int, count: int) -> None:
        tokenizer, rng = build_tokenizer(), np.random.default_rng(0)
        letters = tokenizer.convert_tokens_to_ids(list("abcdefghijklmnopqrstuvwxyz"))
        ids = rng.choice(letters, size=(count, length)).astype(np.int64)
        ids[:, mark] = tokenizer.convert_tokens_to_ids(MARK)
        query = length - round(LABELS * length)
        self._rows = [EncodedRow(row, query, 0) for row in ids]

    def examples(self, split: Split) -> list[Example]:
        """Nothing asks for their text."""
        return [Example("", "") for _ in self.encoded(split)]

    def encoded(self, split: Split) -> list[EncodedRow]:
        """All rows of a split; few to be scored."""
        return self._rows if split == "train" else self._rows[: len(self._rows) // 4]

    def lengths(self, split: Split) -> Ints:
        """The tokens of each row."""
        return np.array([len(row.ids) for row in self.encoded(split)])

    def score(self, texts: Sequence[str], right_N: Any) -> dict[str, float]:
        """No score of its own."""
        return {}


def _slots_limit(length: int, mark: int) -> float:
    """The ratio if a slot cost the same wherever it stands: latents and prefixes counted."""
    return (length + M) / (length + M - mark + 0.5 * mark / TRIALS)


def _engine(base: BaseModel, data: EncodedTask, batch_rows: int, sharing: Sharing) -> Engine:
    engine = Engine(base, share_prefixes=sharing)
    trigger = {"kind": "delimiter", "pattern": MARK, "m": M, "region": "both"}
    for place in range(TRIALS):
        options = {
            "strategy": {"triggers": {"mark": trigger}},
            "optim": {"batch_rows": batch_rows},
            "seed": place,
        }
        spec = TrialSpec(f"trial-{place}", TrialConfig.from_dict(options), budget_steps=10_000)
        engine.join(spec, data)
    return engine


def _pairs(
    slow: Callable[[], object], fast: Callable[[], object], repeats: int
) -> list[tuple[float, float]]:
    """Seconds of both, in turn, after a warm-up."""
    for each in (slow, fast):
        each()
    return [(_seconds(slow), _seconds(fast)) for _ in range(repeats)]


def _seconds(run: Callable[[], object]) -> float:
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    begin = clock()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - begin


if __name__ == "__main__":
    main(sys.argv[1:])
