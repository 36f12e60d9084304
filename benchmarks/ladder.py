"""The ladder: what each lever gives by itself, everything else being equal.

Fusion, prefix sharing and batched evaluation have scripts of their own; here are the others.

    packing             rows cut into micro-batches longest first, over as they come: slots counted
    labelled positions  logits at the labelled slots alone, over at all of them
    optimiser           one AdamW over all trials' latents, over a loop of torch's
    compile             the model's pass by torch.compile over eager; its compilation is not in it
    lanes               a step that shares each operation among the cores, over one with a
                        micro-batch on each
    bfloat16 products   a step in float32 over one whose products are in bfloat16 (autocast)
    checkpointing       a step that keeps its activations, over one that computes them again in its
                        backward: below 1, as it buys memory with time
    residency           a trial in a process of its own, over joining an engine: to its first step
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.finding import finding
from benchmarks.model_pass import pass_of
from benchmarks.optimiser import optimising
from benchmarks.setting import ROOT, Setting, run_row
from benchmarks.slots import count, rows_of_step
from benchmarks.timing import in_turn, ratios
from benchmarks.workload import chains, config, join_trials
from trainable.base_model.loading import BaseModel
from trainable.engine import Engine

TRIALS, BATCH_ROWS = 8, 8
TOKENS = 64


def main(argv: Sequence[str] = ()) -> None:
    """Measure, print and write."""
    run_row("ladder", measure, argv)


def measure(setting: Setting) -> list[dict[str, Any]]:
    """Each lever, in the order of the docstring."""
    base = setting.base()
    found = [packing(base), labelled(base, setting), optimising(base, setting)]
    if not setting.quick:
        found.append(compiling(base, setting))
    if setting.device == "cpu":
        found.append(stepping(base, setting, "lanes", lanes=None))
    if base.model.dtype == torch.float32:
        found.append(stepping(base, setting, "bfloat16 products", precision="bfloat16"))
    again = stepping(base, setting, "activation checkpointing", checkpoint_activations=True)
    return [*found, again, residency(base, setting)]


def packing(base: BaseModel) -> dict[str, Any]:
    """Slots of a step whose rows are cut as they come, over those of the engine's micro-batches."""
    engine, data = Engine(base), chains(base)
    configs = [config(place, BATCH_ROWS) for place in range(TRIALS)]
    quotients = []
    for step in range(5):
        rows = rows_of_step(engine, data, dict.fromkeys(range(TRIALS), step), configs)
        in_order = 0
        size = max(1, engine.micro_batch_tokens // max(map(len, rows)))
        for begin in range(0, len(rows), size):
            batch = rows[begin : begin + size]
            in_order += len(batch) * max(map(len, batch))
        quotients.append(in_order / count(engine.batches(rows)).executed)
    case = f"{TRIALS} trials, {BATCH_ROWS} rows each, chains of 3 to 10; slots counted, not timed"
    return finding(case, quotients, lever="packing")


def labelled(base: BaseModel, setting: Setting) -> dict[str, Any]:
    """Logits at all slots, over at those with a label."""
    rows = _rows(setting)
    spent = in_turn(
        {
            "everywhere": pass_of(base, rows, TOKENS, everywhere=True),
            "labelled": pass_of(base, rows, TOKENS),
        },
        setting.repeats,
    )
    vocabulary = base.model.config.vocab_size
    return finding(
        f"{rows} rows of {TOKENS} tokens, a quarter labelled, vocabulary of {vocabulary:,}",
        ratios(spent["everywhere"], spent["labelled"]),
        lever="labelled positions",
    )


def compiling(base: BaseModel, setting: Setting) -> dict[str, Any]:
    """Eager over compiled."""
    rows = _rows(setting)
    spent = in_turn(
        {
            "eager": pass_of(base, rows, TOKENS),
            "compiled": pass_of(base, rows, TOKENS, compiled=True),
        },
        setting.repeats,
    )
    return finding(
        f"the model's pass, {rows} rows of {TOKENS} tokens, compilation not counted",
        ratios(spent["eager"], spent["compiled"]),
        lever="compile",
    )


def stepping(base: BaseModel, setting: Setting, lever: str, **options: Any) -> dict[str, Any]:
    """An engine's step without these options, over one with them.

    No prefix shared and one lane in either, unless asked for: some options go without, which is
    not their price.
    """
    data = chains(base)
    trials, rows = (2, 1) if setting.quick else (TRIALS, BATCH_ROWS)
    sides = {}
    for name, chosen in {"without": {}, "with": options}.items():
        plain: dict[str, Any] = {"share_prefixes": "off", "lanes": 1}
        engine = Engine(base, **(plain | chosen))
        join_trials(engine, data, trials, rows)
        sides[name] = engine.step
    spent = in_turn(sides, setting.repeats)
    case = f"a step of {trials} trials, {rows} rows each, {lever}"
    return finding(case, ratios(spent["without"], spent["with"]), lever=lever)


def residency(base: BaseModel, setting: Setting) -> dict[str, Any]:
    """A process that trains one trial one step, over a join and a step in a resident engine."""
    engine, data = Engine(base), chains(base)
    data.rows("train")
    command = [sys.executable, "-m", "benchmarks.processes", "child", "0", "--quick"]
    command += ["--device", setting.device, "--shape", setting.shape]

    def process() -> None:
        subprocess.run(command, cwd=ROOT, check=True)  # noqa: S603  (our own)

    def resident() -> None:
        for uid in join_trials(engine, data, 1, BATCH_ROWS):
            engine.step([uid])
            engine.leave(uid)

    spent = in_turn({"process": process, "resident": resident}, setting.repeats)
    return finding(
        f"from nothing to one step of {BATCH_ROWS} rows: start-up, not throughput",
        ratios(spent["process"], spent["resident"]),
        lever="residency",
        process_s=spent["process"],
        resident_s=spent["resident"],
    )


def _rows(setting: Setting) -> int:
    return 2 if setting.quick else 32


if __name__ == "__main__":
    main(sys.argv[1:])
