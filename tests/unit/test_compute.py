"""What the options of training's forward change, and what they must not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from trainable.base_model.loading import BaseModel, load_base
from trainable.data import EncodedTask
from trainable.engine import Engine, TrialSpec
from trainable.errors import BaseModelError
from trainable.trial import TrialConfig

TRIGGERS = {"start": {"kind": "start", "m": 2}, "every": {"kind": "every", "k": 3, "m": 2}}


def gradient(base: BaseModel, data: EncodedTask, **options: Any) -> torch.Tensor:
    engine = Engine(base, **options)
    config = TrialConfig.from_dict({"strategy": {"triggers": TRIGGERS}})
    engine.join(TrialSpec("t", config, 10), data)
    (found,) = engine.gradients(["t"])
    engine.step()
    assert not any(module.training for module in base.model.modules())
    return found


@pytest.fixture
def gpt2(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> BaseModel:
    """A model that drops out as soon as any of it is in training mode."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=16, n_layer=2, n_head=2, n_positions=256,
        resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5, initializer_range=0.3,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return load_base(str(tmp_path), device="cpu")


@pytest.mark.parametrize("name", ["tiny_base", "gpt2"])
def test_checkpointing_is_exact(
    request: pytest.FixtureRequest, tiny_data: EncodedTask, name: str
) -> None:
    base = request.getfixturevalue(name)
    kept = gradient(base, tiny_data)
    assert kept.any()
    torch.testing.assert_close(
        gradient(base, tiny_data, checkpoint_activations=True), kept, rtol=1e-6, atol=1e-7
    )


def test_checkpointing_keeps_less(tiny_base: BaseModel, tiny_data: EncodedTask) -> None:
    saved = {}
    for checkpointed in (False, True):
        sizes: list[int] = []

        def note(values: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(values.nbytes)
            return values

        with torch.autograd.graph.saved_tensors_hooks(note, lambda values: values):
            gradient(tiny_base, tiny_data, checkpoint_activations=checkpointed)
        saved[checkpointed] = sum(sizes)
    assert saved[True] < saved[False] / 2


def test_bfloat16_is_close_and_leaves_latents_and_scores_in_float32(
    tiny_base: BaseModel, tiny_data: EncodedTask
) -> None:
    exact, coarse = (
        gradient(tiny_base, tiny_data, precision=precision) for precision in (None, "bfloat16")
    )
    assert coarse.dtype == torch.float32
    assert not torch.equal(coarse, exact)
    assert torch.cosine_similarity(coarse.flatten(), exact.flatten(), dim=0) > 0.98
    scores = []
    for precision in (None, "bfloat16"):
        engine = Engine(tiny_base, precision=precision)
        config = TrialConfig.from_dict({"strategy": {"triggers": TRIGGERS}})
        engine.join(TrialSpec("t", config, 10), tiny_data)
        scores.append(engine.evaluate(["t"], ["val_id"]))
    assert scores[0] == scores[1]


def test_what_cannot_be_is_refused(tiny_base: BaseModel) -> None:
    with pytest.raises(BaseModelError, match="exclude each other"):
        Engine(tiny_base, compiled=True, checkpoint_activations=True)
    half = load_base(tiny_base.path, dtype="bfloat16", device="cpu")
    with pytest.raises(BaseModelError, match="this one is loaded in bfloat16"):
        Engine(half, precision="bfloat16")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_compiling_is_exact_and_compiles_once(tiny_base: BaseModel, tiny_data: EncodedTask) -> None:
    expected = gradient(tiny_base, tiny_data)
    found = gradient(tiny_base, tiny_data, compiled=True)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    engine = Engine(tiny_base, compiled=True)
    join = TrialConfig.from_dict({"strategy": {"triggers": TRIGGERS}})
    engine.join(TrialSpec("a", join, 10), tiny_data)
    engine.step()
    with torch.compiler.set_stance("fail_on_recompile"):
        engine.join(TrialSpec("b", join, 10), tiny_data)
        engine.step()
        engine.leave("a")
        engine.step()
