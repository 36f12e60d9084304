"""Decoding: seconds per new verbal token with latents, over the base model's own `generate()`.

Both sides run in one process, in turn (A B B A ...); the ratio is taken pair by pair and its
median is quoted, so that a drifting machine moves both sides alike. One thread, so that the CPU
seconds of this process are the time that it takes on an idle machine: by them it is judged. The
limit is 1.15 without sites, and 1.15 times (1 + the share of extra tokens) with them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from benchmarks import machine
from trainable.artifact import Artifact
from trainable.base_model.loading import BaseModel, load_base
from trainable.decoding import LatentLM
from trainable.strategy import InsertionStrategy
from trainable.trial import TrialConfig

OVERHEAD = 1.15
REPEATS = 7
WINDOW = 32  # slots
PROMPTS = (
    "44@47=83,47@83=34,",
    "5@61=20,61@20=77,20@77=3,77@3=18,",
    "12@9=40,",
    "7@7=14,14@14=28,14@28=42,",
)
STRATEGIES: dict[str, dict[str, Any]] = {
    "none": {},
    "never": {"never": {"kind": "delimiter", "pattern": "€", "m": 2}},  # no id of its own
    "start4+comma2": {"start": {"kind": "start", "m": 4}, "comma": {"kind": "delimiter", "m": 2}},
    "every8x2": {"every": {"kind": "every", "k": 8, "m": 2}},
    "digit1": {"digit": {"kind": "delimiter", "pattern": "[0-9]", "m": 1}},
}


def main() -> None:
    """Print one line per base model, batch size and strategy, and write the numbers."""
    torch.set_num_threads(1)
    found = machine.facts()
    bundled = load_base("bundled", device="cpu")
    llama = _random(bundled, LlamaForCausalLM, LlamaConfig)
    mistral = _random(bundled, MistralForCausalLM, MistralConfig, sliding_window=WINDOW)
    subjects = [
        ("bundled", bundled, 64, tuple(STRATEGIES)),
        ("Llama", llama, 24, tuple(STRATEGIES)),
        (f"Mistral, window {WINDOW}", mistral, 24, ("never", "every8x2")),
    ]
    rows = [
        measure(name, base, batch, strategy, new_tokens)
        for name, base, new_tokens, strategies in subjects
        for batch in (1, 8)
        for strategy in strategies
    ]
    path = machine.write("decoding", rows, found)
    out = sys.stdout.write
    out(f"generate() with latents over without, {found['processor']}, {found['threads']} threads\n")
    out("base model          parameters  batch  strategy       extra  alone [ms]  ")
    out("ratio (quartiles)      in CPU   limit\n")
    for row in rows:
        exceeded = "" if row["within"] else "  EXCEEDED"
        out(
            f"{row['base']:<20} {row['parameters'] / 1e6:>7.1f} M  {row['batch']:>5}  "
            f"{row['strategy']:<14} {row['extra_share']:>4.0%}  {row['alone_ms']:>10.2f}  "
            f"{row['ratio']:.2f} ({row['ratio_low']:.2f} to {row['ratio_high']:.2f})   "
            f"{row['cpu_ratio']:>5.2f}   {row['limit']:.2f}{exceeded}\n"
        )
    out(f"written to {path.relative_to(path.parent.parent.parent)}\n")


def measure(
    name: str, base: BaseModel, batch: int, strategy: str, new_tokens: int
) -> dict[str, Any]:
    """Time both sides on one base model, batch size and strategy."""
    prompts = [PROMPTS[line % len(PROMPTS)] for line in range(batch)]
    inputs = base.tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt")
    lm = _attach(base, STRATEGIES[strategy])
    model: Any = base.model

    def alone() -> Any:
        return _generate(model, inputs, new_tokens)

    def with_latents() -> Any:
        return _generate(lm, inputs, new_tokens)

    alone()
    cache = with_latents().past_key_values  # both warm now
    slots, verbal = int(cache.mask_BS.sum()), sum(state.length for state in cache.states)
    share = (slots - verbal) / verbal
    pairs = []
    for repeat in range(REPEATS):
        first, second = (alone, with_latents) if repeat % 2 else (with_latents, alone)
        spent = {first: _spent(first), second: _spent(second)}
        pairs.append((spent[alone], spent[with_latents]))
    alone_R2, latents_R2 = np.array(pairs).swapaxes(0, 1)  # wall and CPU seconds
    ratio, cpu_ratio = np.median(latents_R2 / alone_R2, axis=0)
    low, high = np.quantile((latents_R2 / alone_R2)[:, 0], (0.25, 0.75))
    limit = OVERHEAD * (1 + share)
    return {
        "base": name,
        "parameters": sum(values.numel() for values in base.model.parameters()),
        "batch": batch,
        "strategy": strategy,
        "extra_share": share,
        "alone_ms": 1000 * float(np.median(alone_R2[:, 0])) / new_tokens,
        "latents_ms": 1000 * float(np.median(latents_R2[:, 0])) / new_tokens,
        "ratio": float(ratio),
        "ratio_low": float(low),
        "ratio_high": float(high),
        "cpu_ratio": float(cpu_ratio),
        "limit": limit,
        "within": bool(cpu_ratio <= limit),
        "repeats": REPEATS,
        "new_tokens": new_tokens,
    }


def _generate(model: Any, inputs: Any, new_tokens: int) -> Any:
    return model.generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        max_new_tokens=new_tokens,
        do_sample=False,
        eos_token_id=[],
        return_dict_in_generate=True,
    )


def _spent(side: Callable[[], Any]) -> tuple[float, float]:
    """Wall and CPU seconds of one call."""
    begin, cpu_begin = time.perf_counter(), time.process_time()
    side()
    return time.perf_counter() - begin, time.process_time() - cpu_begin


def _attach(base: BaseModel, triggers: dict[str, Any]) -> LatentLM:
    strategy = InsertionStrategy.from_dict({"triggers": triggers, "specialization": "by_trigger"})
    width = base.model.config.hidden_size
    noise = np.random.default_rng(0).normal(size=(strategy.latent_count, width))
    artifact = Artifact(
        latents=(0.05 * noise).astype(np.float32),
        config=TrialConfig(strategy=strategy),
        base_model=base.describe(),
    )
    return LatentLM.build(base.model, base.tokenizer, artifact)


def _random(bundled: BaseModel, kind: Any, config: Any, **options: Any) -> BaseModel:
    """A model with random weights, large enough to take the time, and the bundled tokenizer."""
    torch.manual_seed(0)
    model = kind(
        config(
            vocab_size=len(bundled.tokenizer),
            hidden_size=512,
            intermediate_size=1408,
            num_hidden_layers=8,
            num_attention_heads=8,
            num_key_value_heads=8,
            initializer_range=0.1,  # far enough from uniform to write varied text
            bos_token_id=bundled.tokenizer.bos_token_id,
            eos_token_id=bundled.tokenizer.eos_token_id,
            pad_token_id=bundled.tokenizer.pad_token_id,
            **options,
        )
    )
    return BaseModel(
        model=model.eval().requires_grad_(False),
        tokenizer=bundled.tokenizer,
        path="random",
        revision=None,
        fingerprint="",
        tokenizer_hash="",
    )


if __name__ == "__main__":
    main()
