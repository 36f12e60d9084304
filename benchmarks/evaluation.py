"""B6, evaluation: generated tokens/s, all trials decoded together over a loop of `generate()`.

    loop        for each trial: LatentLM.generate() on all of its prompts, a batch of its own
    together    one DecodingPool: the prompts of all trials, each with its own strategy

Both sides write the same answers (on a CPU in float32 that is checked token by token). They run
in one process, in turn (A B B A ..); the ratio is taken pair by pair and its median is quoted.
Tokens are those up to the end of each answer; what a loop writes behind it is padding. On a
CPU one thread works, so that the CPU seconds of this process are the time that it takes on an
idle machine: by them it is judged.

    python -m benchmarks.evaluation                                on the bundled base
    python -m benchmarks.evaluation --device cuda --shape 1b       random weights, bfloat16
    python -m benchmarks.evaluation --shape tiny --quick           does it work at all?
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks import machine
from benchmarks.profiling import profile_of
from benchmarks.setting import Setting
from trainable.answers import Decoder, OneByOne
from trainable.artifact import Artifact
from trainable.base_model.loading import BaseModel
from trainable.data import EncodedTask
from trainable.decoding import LatentLM
from trainable.decoding_pool import DecodingPool
from trainable.decoding_row import Request
from trainable.strategy import InsertionStrategy
from trainable.tasks import build_task
from trainable.trial import TrialConfig

TRIALS = 16
REPEATS = 5
NEW_TOKENS = 64
TARGET = {"cpu": 3.0, "cuda": 10.0}
COMMA = {"kind": "delimiter", "pattern": ",", "m": 2}
STRATEGIES: dict[str, dict[str, Any]] = {
    "none": {},
    "start4": {"start": {"kind": "start", "m": 4}},
    "comma2": {"comma": COMMA},
    "start4+comma2": {"start": {"kind": "start", "m": 4}, "comma": COMMA},
    "every8x2": {"every": {"kind": "every", "k": 8, "m": 2}},
    "every3x1": {"every": {"kind": "every", "k": 3, "m": 1}},
    "end4": {"end": {"kind": "end", "m": 4}},
    "random": {"random": {"kind": "random", "rate": 0.2, "seed": 0, "m": 1}},
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one line per number of prompts, and write the numbers."""
    options = _parser().parse_args([] if arguments is None else arguments)
    if options.quick:
        options.trials, options.prompts, options.repeats = 2, [2], 1
    if options.device == "cpu":
        torch.set_num_threads(1)
    found = machine.facts()
    if options.device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
    setting = Setting(options.device, options.shape, options.quick)
    base = setting.base()
    rows = [
        measure(base, options.trials, prompts, options.repeats)
        for prompts in (options.prompts or (8, 16))
    ]
    path = machine.write(setting.result("evaluation"), rows, found)
    out = sys.stdout.write
    where = found.get("gpu", f"{found['processor']}, {found['threads']} threads")
    out(f"greedy decoding of {options.trials} trials together over one after the other, {where}\n")
    out(
        "base      prompts   tokens  loop [tok/s]  together [tok/s]  "
        "ratio (quartiles)   in CPU  target\n"
    )
    for row in rows:
        short = "" if row["within"] else "  MISSED"
        out(
            f"{row['base']:<9} {row['trials']:>3} x {row['prompts']:<3} {row['tokens']:>7} "
            f"{row['loop_tokens_per_s']:>13,.0f} {row['together_tokens_per_s']:>17,.0f}  "
            f"{row['ratio']:.2f} ({row['ratio_low']:.2f} to {row['ratio_high']:.2f})"
            f"  {row['cpu_ratio']:>7.2f}  {row['target']:>5.0f}{short}\n"
        )
    out(f"written to {path.relative_to(path.parent.parent.parent)}\n")


def measure(base: BaseModel, trials: int, prompts: int, repeats: int) -> dict[str, Any]:
    """Time both sides on so many trials and prompts each."""
    lms = [_attach(base, trial) for trial in range(trials)]
    requests = _requests(base, trials, prompts)

    def loop() -> int:
        return _tokens(_answers(OneByOne(lms, rows_at_once=prompts), requests))

    def together() -> int:
        return _tokens(_answers(DecodingPool(lms), requests))

    same = _share_alike(lms, requests, prompts)  # both warm now
    pairs = []
    for repeat in range(repeats):
        first, second = (loop, together) if repeat % 2 else (together, loop)
        rates = {first: _rates(first), second: _rates(second)}
        pairs.append((rates[loop], rates[together]))
    loop_R2, together_R2 = np.array(pairs).swapaxes(0, 1)  # by wall and by CPU seconds
    low, ratio, high = np.quantile((together_R2 / loop_R2)[:, 0], (0.25, 0.5, 0.75))
    cpu_ratio = float(np.median((together_R2 / loop_R2)[:, 1]))
    device = base.model.device.type
    return {
        "base": base.path,
        "device": device,
        "dtype": str(base.model.dtype).removeprefix("torch."),
        "parameters": sum(values.numel() for values in base.model.parameters()),
        "trials": trials,
        "prompts": prompts,
        "tokens": together(),
        "new_tokens": NEW_TOKENS,
        "answers_alike": same,
        "loop_tokens_per_s": float(np.median(loop_R2[:, 0])),
        "together_tokens_per_s": float(np.median(together_R2[:, 0])),
        "loop_tokens_per_cpu_s": float(np.median(loop_R2[:, 1])),
        "together_tokens_per_cpu_s": float(np.median(together_R2[:, 1])),
        "ratio": float(ratio),
        "ratio_low": float(low),
        "ratio_high": float(high),
        "cpu_ratio": cpu_ratio,
        "target": TARGET[device],
        "within": bool((cpu_ratio if device == "cpu" else ratio) >= TARGET[device]),
        "repeats": repeats,
        "profile": profile_of(together, device).shares,
    }


def _share_alike(lms: Sequence[LatentLM], requests: Sequence[Request], prompts: int) -> float:
    """The share of answers that both sides write alike; all of them in float32 on a CPU."""
    one = _answers(OneByOne(lms, rows_at_once=prompts), requests)
    other = _answers(DecodingPool(lms), requests)
    share = float(np.mean([one[place] == other[place] for place in one]))
    exact = lms[0].frozen.dtype == torch.float32 and lms[0].device.type == "cpu"
    if exact and share < 1:
        raise AssertionError(f"only {share:.1%} of the answers are alike: one side is wrong")
    return share


def _answers(decoder: Decoder, requests: Sequence[Request]) -> dict[int, list[int]]:
    return {place: ids.tolist() for place, ids in decoder.run(requests)}


def _tokens(answers: dict[int, list[int]]) -> int:
    return sum(map(len, answers.values()))


def _rates(side: Callable[[], int]) -> tuple[float, float]:
    """Tokens per wall and CPU second of one call; every token is on the host when it returns."""
    begin, cpu_begin = time.perf_counter(), time.process_time()
    tokens = side()
    return tokens / (time.perf_counter() - begin), tokens / (time.process_time() - cpu_begin)


def _requests(base: BaseModel, trials: int, prompts: int) -> list[Request]:
    """Each trial's own prompts of the generation task, as an evaluation asks for them."""
    data = EncodedTask(build_task({"kind": "generation"}, seed=0), base.tokenizer)
    rows = data.rows("val_id")
    ends = frozenset() if base.path != "bundled" else frozenset({base.tokenizer.eos_token_id})
    chosen = [rows[place % len(rows)] for place in range(prompts)]
    return [
        Request(trial, row.ids[: row.query_length], NEW_TOKENS, ends)
        for trial in range(trials)
        for row in chosen
    ]


def _attach(base: BaseModel, trial: int) -> LatentLM:
    triggers = list(STRATEGIES.values())[trial % len(STRATEGIES)]
    strategy = InsertionStrategy.from_dict({"triggers": triggers, "specialization": "by_trigger"})
    width = base.model.config.hidden_size
    noise = np.random.default_rng(trial).normal(size=(strategy.latent_count, width))
    artifact = Artifact(
        latents=(0.05 * noise).astype(np.float32),
        config=TrialConfig(strategy=strategy),
        base_model=base.describe(),
    )
    return LatentLM.build(base.model, base.tokenizer, artifact)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--shape", choices=("bundled", "tiny", "1b"), default="bundled")
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--prompts", type=int, action="append", help="per trial; may be repeated")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--quick", action="store_true", help="the least of everything, once")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
