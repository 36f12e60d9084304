"""Which positions a base model knows, and whether one beyond them is an error.

A model with rotary embeddings goes on beyond its context, worse and worse; one with an embedding
per position has nothing there at all.
"""

from __future__ import annotations

from transformers import PreTrainedModel

from trainable.strategy import InsertionStrategy, PositionRule


def context_of(model: PreTrainedModel) -> int | None:
    """The positions that a model was made for, or None where its configuration does not say."""
    config = model.config.get_text_config(decoder=True)
    context: int | None = getattr(config, "max_position_embeddings", None)
    return context


def has_hard_context(model: PreTrainedModel, strategy: InsertionStrategy) -> bool:
    """Whether positions beyond the context are refused.

    They are where the model looks positions up in a table, and where the strategy counts latents
    as positions: these would leave the context behind without a word in the text that tells so.
    """
    return strategy.position_rule is PositionRule.OWN or not _is_rotary(model)


def _is_rotary(model: PreTrainedModel) -> bool:
    return any("rotary" in type(module).__name__.lower() for module in model.modules())
