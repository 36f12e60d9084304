"""What the tests share: tiny random models in folders, so that `load_base` works on them.

The models have a larger spread of weights than a fresh Llama: logits are then far from
uniform, and greedy outputs differ between strategies.
"""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray reads it once, when it is imported

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from trainable.base_model.loading import BaseModel, load_base
from trainable.base_model.tokenizer import build_tokenizer
from trainable.data import EncodedTask
from trainable.tasks.generation import GenerationTask

# Models of width 32 have nothing to share out, and on a busy machine two threads wait for each
# other at every operator: measured 30 times slower than one.
torch.set_num_threads(1)

MakeFolder = Callable[..., Path]


@pytest.fixture(scope="session")
def ray_scratch() -> Iterator[Path]:
    """Ray's HOME. The same one for every Ray of this process, which remembers the token in it.

    Under /tmp, because Ray's sockets need short paths.
    """
    with tempfile.TemporaryDirectory(prefix="lt", dir="/tmp", ignore_cleanup_errors=True) as path:
        yield Path(path)


def tiny_llama(
    tokenizer: PreTrainedTokenizerFast, *, seed: int = 0, spread: float = 0.3
) -> LlamaForCausalLM:
    """A random Llama of width 32 with two layers, on the tokenizer's vocabulary."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=512,
        initializer_range=spread,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    model: LlamaForCausalLM = LlamaForCausalLM(config).eval()
    return model


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.fixture(scope="session")
def make_folder(
    tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> MakeFolder:
    """Write a tiny model and its tokenizer into a new folder."""

    def make(*, seed: int = 0, spread: float = 0.3) -> Path:
        folder = tmp_path_factory.mktemp("model")
        tiny_llama(tokenizer, seed=seed, spread=spread).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_folder(make_folder: MakeFolder) -> Path:
    return make_folder()


@pytest.fixture(scope="session")
def tiny_base(tiny_folder: Path) -> BaseModel:
    """The tiny model, loaded as the engine loads it. Frozen: no test may change it."""
    return load_base(str(tiny_folder), device="cpu")


@pytest.fixture(scope="session")
def tiny_data(tokenizer: PreTrainedTokenizerFast) -> EncodedTask:
    """A small Generation task: rows of unequal length."""
    task = GenerationTask(
        train_lengths=(1, 3),
        val_ood_lengths=(4, 5),
        test_ood_lengths=(6,),
        train_rows=48,
        val_rows=4,
        test_rows=2,
    )
    return EncodedTask(task, tokenizer)
