"""How the frozen model computes in training: precision, compilation, activation checkpointing.

None of it touches the base model that is decoded and scored with: what is scored is what is
handed over. Latents, moments and losses are float32 whatever is chosen here.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Literal

import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from trainable.errors import BaseModelError
from trainable.prefix_plan import Sharing
from trainable.selftest import check_attention

Precision = Literal["float32", "bfloat16"]


class TrainingCompute:
    """The forward and backward of training.

    Args:
        model: frozen, in eval mode.
        precision: `bfloat16` lets a float32 base multiply in bfloat16; None: as it was loaded.
        compiled: compile the decoder once for all shapes; takes a minute at the first step.
        checkpoint_activations: compute each layer again in the backward instead of keeping what
            it needs: a third more time, for a fraction of the memory.

    Raises:
        BaseModelError: if the options exclude each other or this model cannot be run so.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        precision: Precision | None = None,
        compiled: bool = False,
        checkpoint_activations: bool = False,
        share_prefixes: Sharing = "auto",
    ) -> None:
        if compiled and checkpoint_activations:
            raise BaseModelError(
                "engine.compile and engine.checkpoint_activations exclude each other: leave one out"
            )
        if precision == "bfloat16" and model.dtype != torch.float32:
            raise BaseModelError(
                f"engine.precision: bfloat16 is for a base model in float32, this one is loaded in "
                f"{str(model.dtype).removeprefix('torch.')}: leave engine.precision out"
            )
        self.model = _compiled(model) if compiled else model
        self._autocast = precision == "bfloat16"
        self._checkpointed = _layers(model) if checkpoint_activations else []
        # A checkpointed layer drops its cache; a compiled one would be compiled again for it.
        self.sharing: Sharing = "off" if compiled or checkpoint_activations else share_prefixes
        with _recomputing(self._checkpointed):
            check_attention(self.model)

    @contextmanager
    def forward(self) -> Iterator[PreTrainedModel]:
        """The model to run a forward of training on, and what holds while it runs."""
        with ExitStack() as stack:
            if self._autocast:
                device = self.model.device.type
                stack.enter_context(torch.autocast(device, dtype=torch.bfloat16))
            stack.enter_context(_recomputing(self._checkpointed))
            yield self.model

    def probe(self, rows: int, width: int) -> None:
        """Forward and backward over so many rows, half of their slots labelled: for its memory."""
        device = self.model.device
        ids_BT = torch.zeros(rows, width, dtype=torch.long, device=device)
        embeds_BTD = self.model.get_input_embeddings()(ids_BT).detach().requires_grad_(True)
        position_BT = torch.arange(width, device=device).expand(rows, width)
        with self.forward() as model:
            logits_BTV = model(
                inputs_embeds=embeds_BTD,
                position_ids=position_BT,
                attention_mask=torch.ones_like(ids_BT),
                logits_to_keep=width // 2,
                use_cache=False,
            ).logits
        logits_BTV.float().logsumexp(-1).sum().backward()


def _compiled(model: PreTrainedModel) -> PreTrainedModel:
    """A copy that shares the weights and whose decoder is compiled, for shapes that vary.

    The output head stays outside: it reads other slots in each batch.
    """
    twin = copy.copy(model)
    twin._modules = dict(model._modules)
    name = model.base_model_prefix
    setattr(twin, name, torch.compile(getattr(model, name), dynamic=True))
    return twin


def _layers(model: PreTrainedModel) -> list[GradientCheckpointingLayer]:
    layers = [part for part in model.modules() if isinstance(part, GradientCheckpointingLayer)]
    if not layers:
        raise BaseModelError(
            f"engine.checkpoint_activations: {type(model).__name__} has no layers that can be "
            "computed again: leave it out, and lower engine.micro_batch_tokens instead"
        )
    return layers


@contextmanager
def _recomputing(layers: list[GradientCheckpointingLayer]) -> Iterator[None]:
    """Let these layers keep their inputs alone.

    transformers does so for layers in training mode. Only the layers themselves are put into it,
    not what is in them, so that nothing drops out and results stay the same.
    """
    for layer in layers:
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)  # type: ignore[assignment]
        layer.gradient_checkpointing, layer.training = True, True
    try:
        yield
    finally:
        for layer in layers:
            layer.gradient_checkpointing, layer.training = False, False
