"""What cannot be a base model, told from its configuration and its class, before any weight."""

from __future__ import annotations

import inspect
from typing import Any

from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
)

from trainable.errors import BaseModelError

_WHY_NEEDED = {
    "inputs_embeds": "latents are rows of inputs_embeds, which have no token id",
    "position_ids": (
        "it counts positions itself, by slot (ALiBi, recurrence or an encoder's decoder), so a "
        "latent could not share its neighbour's position and would move the tokens behind it"
    ),
}


def refuse_config(path: str, config: Any, own_code: bool) -> None:
    """Refuse what is no decoder-only language model, or gives each layer the tokens' ids.

    Args:
        config: the model's configuration, as transformers read it.
        own_code: whether the model brings its own class, which transformers does not know.

    Raises:
        BaseModelError: naming `base_model.path`.
    """
    known = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if getattr(config, "is_encoder_decoder", False) or not (known or own_code):
        raise BaseModelError(
            f"base_model.path={path!r} holds a {config.model_type} model, which is no causal "
            "(decoder-only) language model: latent tokens need one, e.g. a Llama or Qwen"
        )
    architectures = config.architectures or []
    if architectures and not own_code and not any(map(_predicts, architectures)):
        raise BaseModelError(
            f"base_model.path={path!r} holds {', '.join(architectures)}, which predicts no next "
            "token: give the causal language model (…ForCausalLM)"
        )
    if getattr(config.get_text_config(), "hidden_size_per_layer_input", None):
        raise BaseModelError(
            f"base_model.path={path!r} holds a {config.model_type} model that adds an embedding of "
            "the token's id at each layer (hidden_size_per_layer_input), and a latent has no id: "
            "take a model without it"
        )


def refuse_forward(path: str, model_class: type[PreTrainedModel]) -> None:
    """Refuse a model whose forward lacks what latents come in by.

    Raises:
        BaseModelError: naming `base_model.path` and the missing parameter.
    """
    parameters = inspect.signature(model_class.forward).parameters
    for name, reason in _WHY_NEEDED.items():
        if name not in parameters:
            raise BaseModelError(
                f"base_model.path={path!r}: the forward of {model_class.__name__} takes no {name}: "
                f"{reason}; take a model with rotary or learned positions, e.g. a Llama or Qwen"
            )


def refuse_kernel(path: str, model_class: type[PreTrainedModel], kernel: str) -> None:
    """Refuse `sdpa` for a model that transformers gives no such kernel.

    Raises:
        BaseModelError: naming `base_model.attn_implementation`.
    """
    if kernel == "sdpa" and not model_class._supports_sdpa:
        raise BaseModelError(
            f"base_model.attn_implementation={kernel!r}: {model_class.__name__} of "
            f"base_model.path={path!r} has no sdpa attention: write "
            "base_model.attn_implementation: eager"
        )


def class_of(config: Any) -> type[PreTrainedModel] | None:
    """The causal language model that transformers has for a configuration, if any."""
    found: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    return found  # type: ignore[no-any-return]


def _predicts(architecture: str) -> bool:
    names = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    return architecture in names or "CausalLM" in architecture or "LMHead" in architecture
