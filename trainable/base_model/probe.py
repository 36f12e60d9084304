"""A few logits of a model, by which its weights in memory are told from those of its files.

A fingerprint reads files. A model that was loaded and then fine-tuned still names the same
files, so an artifact also keeps what the base model answered to one fixed sequence. Another
dtype or machine changes the answers by rounding, other weights change them by more. The
comparison is coarse on purpose: it catches a changed model and never proves an equal one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedModel

from trainable.base_model.inputs import probe_ids

# Against the spread of the recorded logits, for the coarser of two dtypes. Quantised weights
# differ from those of the files in earnest, so there nothing is compared.
_TOLERANCE = {"float64": 0.005, "float32": 0.005, "bfloat16": 0.25, "float16": 0.25}


@torch.no_grad()
def take_probe(model: PreTrainedModel) -> dict[str, Any]:
    """What a model answers to a fixed sequence: its ids, and the last logits of the same ids."""
    return _answer(model, probe_ids(model).tolist())


@torch.no_grad()
def probe_deviation(model: PreTrainedModel, expected: Mapping[str, Any]) -> float:
    """How far a model's answers are from recorded ones, as a share of those ones' spread.

    Raises:
        KeyError, TypeError, ValueError, IndexError: if what was recorded is no probe.
    """
    recorded = torch.tensor(expected["logits"], dtype=torch.float64)
    found = torch.tensor(_answer(model, expected["ids"])["logits"], dtype=torch.float64)
    return float((found - recorded).abs().max() / recorded.std().clamp_min(1e-6))


def tolerance(*dtypes: str) -> float:
    """The deviation that the dtypes of two equal models may make."""
    return max(_TOLERANCE.get(dtype, max(_TOLERANCE.values())) for dtype in dtypes)


def dtype_of(model: PreTrainedModel) -> str:
    """The dtype of a model's weights that are not quantised."""
    return str(model.dtype).removeprefix("torch.")


def quantization_of(model: PreTrainedModel) -> str | None:
    """How a model in memory is quantised, in the words of `LoadOptions.quantization`."""
    if not getattr(model, "is_quantized", False):
        return None
    config = model.config.quantization_config
    config = config if isinstance(config, dict) else config.to_dict()
    for bits in ("4bit", "8bit"):
        if config.get(f"load_in_{bits}"):
            return f"bitsandbytes-{bits}"
    return str(config.get("quant_method", "unknown"))


def _answer(model: PreTrainedModel, ids: list[int]) -> dict[str, Any]:
    table_VD = next(model.get_input_embeddings().parameters())
    if not all(0 <= i < len(table_VD) for i in ids):  # a GPU would abort the process
        raise IndexError(f"ids {ids} are not all among the model's {len(table_VD)}")
    device = table_VD.device
    ids_BT = torch.tensor([ids], device=device)
    logits_V = model(
        input_ids=ids_BT, attention_mask=torch.ones_like(ids_BT), use_cache=False
    ).logits[0, -1]
    return {"ids": ids, "logits": [round(float(logits_V[i]), 5) for i in ids]}
