"""What a model makes of `inputs_embeds` and `position_ids`, measured on eight tokens.

    input_ids ──embeddings──► inputs_embeds ──(times c, plus positions)──► first block ──► logits
                 (times e)     latents are rows of this

Latents are rows of `inputs_embeds`; the first block sees them times `block_input_scale` (c).
Most models have e = c = 1. Gemma's embeddings multiply their weights by e = sqrt(D), so
latents live on the scaled side; Granite's forward multiplies by c afterwards.

Models that cannot carry latents show it here and nowhere else: some scale embeddings only
where they looked them up themselves, some add an embedding of the id at each layer, ALiBi
ignores position ids, encoders look ahead.

Shape suffixes: B rows, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from trainable.errors import BaseModelError

TOKENS = 8
# Against the largest logit. These tell wrong from rounding: what is wrong here is wrong by halves.
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}
_COARSE_TOLERANCE = 0.1  # 16 bits, quantised weights
_RESIDUAL = 0.02  # of a factor: what is left over beside it


@dataclass(frozen=True)
class InputSpace:
    """Which space latents live in: factors, or None where they are unknown or no one number.

    Args:
        embedding_scale: what the embeddings return, over their weight rows.
        block_input_scale: what the first block sees of a row of `inputs_embeds`, over that
            row, position embeddings aside.
    """

    embedding_scale: float | None = None
    block_input_scale: float | None = None


@torch.no_grad()
def measure_inputs(model: PreTrainedModel) -> InputSpace:
    """Run three small batches and compare.

    Raises:
        BaseModelError: if `inputs_embeds` do not do what `input_ids` do, if position ids do
            not count or count otherwise than 0, 1, 2, …, or if tokens see later ones.
    """
    embeddings = model.get_input_embeddings()
    ids_T = probe_ids(model)
    ids_BT = ids_T.expand(3, -1)
    count_BT = torch.arange(TOKENS, device=ids_T.device).expand(3, -1)
    repeated_BT = count_BT.clone()
    repeated_BT[1] = torch.tensor([0, 1, 2, 2, 2, 3, 4, 4])
    embeds_BTD = embeddings(ids_BT).clone()
    late = slice(TOKENS // 2, None)
    # Halfway between two tokens: like a latent, no row of the vocabulary.
    embeds_BTD[2, late] = (embeds_BTD[2, late] + embeddings(ids_T.roll(3))[late]) / 2

    plain_BTV = _logits(model, input_ids=ids_BT)
    counted_BTV = _logits(model, input_ids=ids_BT, position_ids=count_BT)
    with _first_block_input(model, embeds_BTD.shape) as seen:
        embeds_BTV = _logits(model, inputs_embeds=embeds_BTD.clone(), position_ids=repeated_BT)

    _same(model, plain_BTV[0], counted_BTV[0], "its positions do not count 0, 1, 2, …")
    _same(
        model, counted_BTV[0], embeds_BTV[0],
        "it does something else with inputs_embeds than with the input_ids that they belong to",
    )  # fmt: skip
    if torch.equal(embeds_BTV[0], embeds_BTV[1]):
        raise _refusal(
            model,
            "its position_ids have no effect (ALiBi, recurrence or none at all), so latents "
            "would move the tokens behind them",
        )
    begin = slice(TOKENS // 2)
    _same(model, embeds_BTV[0, begin], embeds_BTV[2, begin], "its tokens see the ones behind them")
    weight_VD = next(embeddings.parameters())
    block_scale = None
    if seen:  # positions are added to both rows alike, so the difference is free of them
        block_scale = _factor(
            seen[0][2, late] - seen[0][0, late], embeds_BTD[2, late] - embeds_BTD[0, late]
        )
    same_width = weight_VD.shape[-1] == embeds_BTD.shape[-1]  # no packed 4-bit weights
    return InputSpace(
        embedding_scale=_factor(embeds_BTD[0], weight_VD[ids_T]) if same_width else None,
        block_input_scale=block_scale,
    )


def probe_ids(model: PreTrainedModel) -> torch.Tensor:
    """Token ids spread over the vocabulary, [T], on the embeddings' device."""
    vocabulary = model.config.get_text_config().vocab_size
    device = next(model.get_input_embeddings().parameters()).device
    return torch.linspace(min(3, vocabulary - 1), vocabulary - 1, TOKENS, device=device).long()


def _logits(model: PreTrainedModel, **inputs: torch.Tensor) -> torch.Tensor:
    """One forward as training runs it; float32 logits, [B, T, V]."""
    shape = next(iter(inputs.values())).shape[:2]
    device = next(iter(inputs.values())).device
    ones_BT = torch.ones(shape, dtype=torch.long, device=device)
    try:
        output: Any = model(attention_mask=ones_BT, use_cache=False, **inputs)
    except (TypeError, ValueError, RuntimeError, AttributeError, KeyError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise _refusal(model, f"its forward fails on {' and '.join(inputs)}: {first}") from error
    logits_BTV: torch.Tensor = output.logits.float()
    return logits_BTV


@contextmanager
def _first_block_input(model: PreTrainedModel, shape: torch.Size) -> Iterator[list[torch.Tensor]]:
    """Catch what the first block to run is given: the first member of a module list."""
    seen: list[torch.Tensor] = []

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = args[0] if args else kwargs.get("hidden_states")
        if not seen and isinstance(given, torch.Tensor) and given.shape == shape:
            seen.append(given.clone())

    lists = [each for each in model.modules() if isinstance(each, nn.ModuleList) and len(each)]
    hooks = [each[0].register_forward_pre_hook(note, with_kwargs=True) for each in lists]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _factor(output: torch.Tensor, given: torch.Tensor) -> float | None:
    """The c in output = c · given, or None where there is none."""
    output, given = output.double().cpu(), given.double().cpu()
    factor = (output * given).sum() / (given * given).sum()
    if not (output - factor * given).norm() <= _RESIDUAL * output.norm():
        return None
    return round(float(factor), 6)


def _same(model: PreTrainedModel, one: torch.Tensor, other: torch.Tensor, reason: str) -> None:
    error = float((one - other).abs().max() / one.abs().max().clamp_min(1.0))
    coarse = getattr(model, "is_quantized", False)
    tolerance = _COARSE_TOLERANCE if coarse else _TOLERANCE.get(model.dtype, _COARSE_TOLERANCE)
    if not error <= tolerance:
        raise _refusal(model, f"{reason} (logits differ by {error:.2g}, at most {tolerance:g})")


def _refusal(model: PreTrainedModel, reason: str) -> BaseModelError:
    return BaseModelError(
        f"{type(model).__name__} cannot carry latent tokens: {reason}; take a decoder-only model "
        "with rotary or learned positions, for example a Llama, Qwen or Mistral"
    )
