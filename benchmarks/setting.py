"""What a benchmark runs on: a device, a base model's shape, and how much of it is wanted.

    --device cpu | cuda       --shape bundled | tiny | 1b       --quick

`1b` has Llama-3.2-1B's shape, random bfloat16 weights and the bundled tokenizer; `tiny` is a
model of two layers. `--quick` takes the least size once: it shows that a script works, and its
numbers mean nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from benchmarks import machine
from benchmarks.finding import lines_of
from trainable.base_model.loading import BaseModel, load_base

REPEATS = 5
ROOT = Path(__file__).parent.parent
_SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
    },
    "1b": {
        "vocab_size": 128_256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
        "dtype": torch.bfloat16,
    },
}


@dataclass(frozen=True)
class Setting:
    """Where and how large.

    Args:
        shape: of the base model, see above.
        quick: whether only a sign of life is wanted.
    """

    device: str = "cpu"
    shape: str = "bundled"
    quick: bool = False

    @property
    def repeats(self) -> int:
        """How often each side runs."""
        return 1 if self.quick else REPEATS

    @property
    def large(self) -> bool:
        """Whether the GPU's sizes are meant, not the laptop's."""
        return self.shape == "1b"

    def result(self, row: str) -> str:
        """The name of the file for a row's results; tries do not pass for measurements."""
        if self.quick:
            return f"{row}-quick"
        return row if self == Setting() else f"{row}-{self.shape}-{self.device}"

    def base(self) -> BaseModel:
        """The frozen model."""
        if self.shape == "bundled":
            return load_base("bundled", device=self.device)
        return random_base(self.device, **_SHAPES[self.shape])


def random_base(device: str, **shape: Any) -> BaseModel:
    """A Llama with random weights, made from its configuration alone."""
    tokenizer = AutoTokenizer.from_pretrained(str(ROOT / "trainable/base_model/bundled"))
    torch.manual_seed(0)
    dtype = shape.pop("dtype", torch.float32)
    configuration: Any = LlamaConfig  # its types know no attn_implementation
    config = configuration(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation="sdpa",
        **shape,
    )
    kind: Any = LlamaForCausalLM
    with torch.device(device):
        model = kind(config).to(dtype)
    return BaseModel(
        model=model.eval().requires_grad_(False),
        tokenizer=tokenizer,
        path="random",
        revision=None,
        fingerprint="",
        tokenizer_hash="",
    )


def parse(argv: Sequence[str]) -> Setting:
    """Read the options above."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--shape", choices=("bundled", *_SHAPES), default="bundled")
    parser.add_argument("--quick", action="store_true")
    return Setting(**vars(parser.parse_args(list(argv))))


def run_row(
    row: str, measure: Callable[[Setting], list[dict[str, Any]]], argv: Sequence[str] = ()
) -> None:
    """Measure a row, print it, and write `results/ROW.json`."""
    setting = parse(argv)
    found = machine.facts() | {"device": setting.device, "shape": setting.shape}
    rows = measure(setting)
    path = machine.write(setting.result(row), rows, found)
    where = found["accelerator"] if setting.device == "cuda" else found["processor"]
    heading = f"{row}: {where}, {found['cores']} cores, base model {setting.shape}"
    written = f"written to {path.relative_to(path.parent.parent.parent)}"
    sys.stdout.write("\n".join([heading, *lines_of(rows), written]) + "\n\n")
    sys.stdout.flush()
