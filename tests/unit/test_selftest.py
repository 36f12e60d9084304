"""The check at engine start: passes where attention is whole, fails where the trap snaps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from trainable.base_model.loading import BaseModel, load_base
from trainable.engine import Engine
from trainable.errors import BaseModelError
from trainable.selftest import check_attention


class DropsTheMask(torch.nn.Module):
    """A model that loses its 2-D attention mask on the way, as a careless caller would."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.config, self.dtype, self.device = model.config, model.dtype, model.device

    def get_input_embeddings(self) -> torch.nn.Module:
        embeddings: torch.nn.Module = self.model.get_input_embeddings()
        return embeddings

    def forward(self, *, attention_mask: torch.Tensor, **inputs: Any) -> Any:
        mask = None if attention_mask.ndim == 2 else attention_mask
        return self.model(attention_mask=mask, **inputs)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_whole_attention_passes(tiny_base: BaseModel, attention: str) -> None:
    base = load_base(tiny_base.path, device="cpu", attn_implementation=attention)
    assert base.model.config._attn_implementation == attention
    check_attention(base.model)


def test_bfloat16_passes(tiny_base: BaseModel) -> None:
    check_attention(load_base(tiny_base.path, dtype="bfloat16", device="cpu").model)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_trap_is_caught(tiny_base: BaseModel, attention: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_base.path, attn_implementation=attention)
    with pytest.raises(BaseModelError, match=r"cuts attention.*attn_implementation: sdpa"):
        check_attention(DropsTheMask(model.eval()))  # type: ignore[arg-type]


def test_a_model_that_yields_no_numbers_is_caught(tiny_base: BaseModel) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_base.path).eval()
    with torch.no_grad():
        model.model.norm.weight.fill_(torch.nan)
    with pytest.raises(BaseModelError):
        check_attention(model)


def test_every_engine_checks_its_model(
    tiny_base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(model: object) -> None:
        assert model is tiny_base.model
        raise BaseModelError("checked")

    for check in ("compute.check_attention", "engine.check_decoding"):
        with monkeypatch.context() as patch:
            patch.setattr(f"trainable.{check}", refuse)
            with pytest.raises(BaseModelError, match="checked"):
                Engine(tiny_base)
    Engine(tiny_base)
