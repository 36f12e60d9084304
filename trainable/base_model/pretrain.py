"""Pre-train the bundled base model: `python -m trainable.base_model.pretrain --to DIR`.

A Llama of 1.14 M parameters over characters, trained once on `corpus.py` from fixed seeds, in
eight stages, and then frozen for good. It is smaller in the first three. The recipe is here so that
anyone can see, and repeat, what the base has read; the numbers it prints at the end are those of
`docs/base_model.md`.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from trainable.base_model import corpus
from trainable.base_model.growing import add_heads
from trainable.base_model.tokenizer import MAX_TOKENS, build_tokenizer

logger = logging.getLogger(__name__)

WARMUP_STEPS = 100
IGNORED = -100


@dataclass(frozen=True)
class Stage:
    """A stretch of training with its own schedule.

    Args:
        shares: how probable each family of documents is.
        grows: whether the model is given more heads first.
        batch_tokens: per optimiser step, padding included.
    """

    steps: int
    peak_lr: float
    seed: int
    shares: Mapping[str, float]
    grows: bool = False
    batch_tokens: int = 4_096


# Rules are the hardest and come first. Look-ups are learned on top of copying from anywhere, which
# echoes teach: before them, lists had taught next to nothing.
STAGES = (
    Stage(4_500, 3e-3, 20261121, {"rules": 0.7, "lists": 0.15, "copies": 0.15}),
    Stage(1_000, 1.5e-3, 20261122, {"rules": 0.4, "lists": 0.3, "sums": 0.05, "copies": 0.25}),
    Stage(1_200, 2e-3, 20261122, {"rules": 0.2, "lists": 0.4, "sums": 0.05, "copies": 0.35}),
    Stage(700, 1.5e-3, 20261123, {"echoes": 1.0}, grows=True, batch_tokens=2_048),
    Stage(800, 1.5e-3, 20261124, {"rules": 0.1, "lists": 0.7, "echoes": 0.2}),
    Stage(
        3_000,
        2e-3,
        20261125,
        {"rules": 0.27, "lists": 0.4, "sums": 0.04, "copies": 0.25, "echoes": 0.04},
    ),
    Stage(500, 1e-3, 20261126, {"rules": 0.27, "lists": 0.45, "sums": 0.04, "copies": 0.24}),
    Stage(500, 1e-3, 20261127, {"rules": 0.24, "lists": 0.38, "sums": 0.02, "copies": 0.36}),
)


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Build the untrained model: 4 layers of width 128."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            tie_word_embeddings=False,
        )
    )


def encode_batch(
    tokenizer: PreTrainedTokenizerFast, documents: Sequence[corpus.Document], width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Encode documents right-padded to `width`. Returns ids [B, T] and labels [B, T]."""
    ids_BT = torch.full((len(documents), width), tokenizer.pad_token_id)
    labels_BT = torch.full((len(documents), width), IGNORED)
    for index, document in enumerate(documents):
        row = tokenizer(document.text)["input_ids"] + [tokenizer.eos_token_id] * document.closed
        ids_BT[index, : len(row)] = torch.tensor(row[:width])
        labels_BT[index, : len(row)] = torch.tensor(row[:width])
        labels_BT[index, : 1 + document.given] = IGNORED
    return ids_BT, labels_BT


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up, then a cosine down to a tenth of the peak."""
    if step < WARMUP_STEPS:
        return peak * (step + 1) / WARMUP_STEPS
    progress = (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    return peak * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress)))


def pretrain() -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Train from scratch through all stages."""
    torch.manual_seed(STAGES[0].seed)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    for stage in STAGES:
        model = add_heads(model, stage.seed) if stage.grows else model
        run_stage(model, tokenizer, stage)
    return model.eval(), tokenizer


def run_stage(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, stage: Stage) -> None:
    """Train for a stage's optimiser steps."""
    rng = np.random.default_rng(stage.seed)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    started, tokens = time.monotonic(), 0
    for step in range(stage.steps):
        ids_BT, labels_BT = encode_batch(
            tokenizer, *corpus.draw_batch(rng, stage.batch_tokens, stage.shares)
        )
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, stage.steps, stage.peak_lr)
        # Right padding under a causal mask: no real token sees a pad, so no mask is needed.
        loss = model(input_ids=ids_BT, labels=labels_BT).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        tokens += int((labels_BT != IGNORED).sum())
        if step % 50 == 0 or step == stage.steps - 1:
            elapsed_s = time.monotonic() - started
            logger.info(
                "step %d  tokens %.2f M  loss %.4f  %.0f tokens/s",
                step, tokens / 1e6, loss.item(), tokens / elapsed_s,
            )  # fmt: skip


@torch.no_grad()
def probe(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    rule: str,
    tag_gap: int,
    equations: int,
) -> dict[str, float]:
    """Teacher-forced accuracy on 200 chains: whole chains, all results, first and last result.

    Args:
        tag_gap: a tag stands before each `tag_gap`-th equation from the first on; 0: no tag.
    """
    rng = np.random.default_rng(1)
    chains = [_chain(rng, rule, equations) for _ in range(200)]
    texts, results = zip(*(_with_tags(chain, rule, tag_gap) for chain in chains), strict=True)
    ids_BT, _ = encode_batch(
        tokenizer, [corpus.Document(text, closed=False) for text in texts], MAX_TOKENS
    )
    right_BT = model(input_ids=ids_BT).logits.argmax(-1)[:, :-1] == ids_BT[:, 1:]
    places_BN = torch.tensor(results)  # characters, which BOS shifts by one and the labels back
    right_BN = right_BT.gather(1, places_BN) & right_BT.gather(1, places_BN + 1)
    return {
        "chain": float(right_BN.all(-1).float().mean()),
        "results": float(right_BN.float().mean()),
        "first_result": float(right_BN[:, 0].float().mean()),
        "last_result": float(right_BN[:, -1].float().mean()),
    }


def _chain(rng: np.random.Generator, rule: str, equations: int) -> list[str]:
    left, right = (f"{int(rng.integers(100)):02d}" for _ in range(2))
    parts = []
    for _ in range(equations):
        result = corpus.apply_rule(rule, left, right)
        parts.append(f"{left}@{right}={result}")
        left, right = right, result
    return parts


def _with_tags(chain: list[str], rule: str, tag_gap: int) -> tuple[str, list[int]]:
    """Join a chain, tagged. Returns the text and where in it each result begins."""
    text, results = "", []
    for index, equation in enumerate(chain):
        text += "," * (index > 0) + f"[{rule}]" * (tag_gap > 0 and index % tag_gap == 0)
        results.append(len(text) + len("44@47="))
        text += equation
    return text, results


def probe_all(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> list[dict[str, object]]:
    """What the base can do: a rule that it has read and the held-out one, named or not."""
    rows: list[dict[str, object]] = []
    for rule, status in (("Ap", "seen"), (corpus.HELD_OUT_RULE, "held out")):
        for tag_gap, tags in ((0, "none"), (99, "start"), (4, "every 4")):
            for equations in (6, 12, 24):
                scores = probe(model, tokenizer, rule, tag_gap, equations)
                rows.append({"rule": status, "tags": tags, "equations": equations, **scores})
    return rows


@torch.no_grad()
def probe_ingredients(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> list[dict[str, object]]:
    """What the other two tasks are made of: share of 200 look-ups, sums and copies right."""
    rng = np.random.default_rng(2)
    found: list[dict[str, object]] = []
    for bindings in (5, 15, 30):
        asked = [_look_up(rng, bindings) for _ in range(200)]
        found.append({"look-ups among": bindings, "right": _share_right(model, tokenizer, asked)})
    sums = [(f"{x}+{y}=", f"{x + y:02d}") for x in range(10) for y in range(10)]
    found.append({"sums": len(sums), "right": _share_right(model, tokenizer, sums)})
    for count in (2, 5, 9):
        words = [corpus.draw_word(rng, corpus.MIXED, 5, 9) for _ in range(200)]
        # The first copy shows what a word is; what follows is up to the model.
        asked = [(f"{count}*{w}:{w},", ",".join([w] * (count - 1))) for w in words]
        found.append({"copies": count, "right": _share_right(model, tokenizer, asked)})
    return found


def _look_up(rng: np.random.Generator, bindings: int) -> tuple[str, str]:
    names = [str(name) for name in rng.choice(list(corpus.NAMES), size=bindings, replace=False)]
    values = [str(rng.integers(10)) for _ in names]
    lines = [f"{name}={value}" for name, value in zip(names, values, strict=True)]
    place = int(rng.integers(bindings))
    return "\n".join([*lines, f"?{names[place]}="]), values[place]


def _share_right(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    asked: Sequence[tuple[str, str]],
) -> float:
    """The share of (prompt, completion) pairs that greedy decoding would get wholly right."""
    right = 0
    for prompt, completion in asked:
        ids_BT = tokenizer(prompt + completion, return_tensors="pt")["input_ids"]
        guessed_T = model(input_ids=ids_BT).logits[0, :-1].argmax(-1)
        right += bool((guessed_T == ids_BT[0, 1:])[-len(completion) :].all())
    return right / len(asked)


def main() -> None:
    """Train, save as a Hugging Face folder, and write what the probes found beside it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, required=True, help="folder to write")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    model, tokenizer = pretrain()
    model.save_pretrained(args.to)
    tokenizer.save_pretrained(args.to)
    rows = probe_all(model, tokenizer) + probe_ingredients(model, tokenizer)
    (args.to / "probes.json").write_text(json.dumps(rows, indent=1) + "\n")
    for row in rows:
        logger.info("%s", row)


if __name__ == "__main__":
    main()
