"""Exchange latents with other libraries: `latentune export` and `latentune import`."""

from __future__ import annotations

from pathlib import Path

from orchestrator.errors import TargetExistsError
from orchestrator.usage import base_of
from trainable.base_model.loading import load_base
from trainable.latents import LatentTokens
from trainable.peft_format import Adapter
from trainable.prompt_tuning import (
    adapter_card,
    refuse_other_base,
    refuse_strategy,
    to_adapter,
    to_artifact,
)


def export_peft(
    folder: Path, to: Path, base_model: str | None, *, trust_remote_code: bool = False
) -> None:
    """Write an artifact folder's latents as a PEFT prompt-tuning adapter.

    Args:
        base_model: where the base model is now; default where the artifact says it was.

    Raises:
        StrategyError: if PEFT has no place for the strategy's latents.
        ArtifactError, FingerprintError, BaseModelError: if artifact or base model cannot be used.
        TargetExistsError: if `to` holds anything.
    """
    _refuse_full(to)
    latents = LatentTokens.load(folder)
    refuse_strategy(latents.artifact.config.strategy)  # before a model is loaded
    base = base_of(latents.artifact, base_model, trust_remote_code=trust_remote_code)
    latents.attach(base.model, base.tokenizer)  # refuses another base model
    adapter = to_adapter(latents.artifact, base)
    adapter.save(to, adapter_card(latents.artifact, adapter))


def import_peft(
    folder: Path,
    to: Path,
    base_model: str,
    revision: str | None,
    dtype: str,
    *,
    attn_implementation: str = "sdpa",
    renamed_base: bool = False,
) -> None:
    """Turn a PEFT prompt-tuning adapter into an artifact folder.

    Args:
        base_model: the base model that it was trained on.
        revision: the base model's revision, for a model id.
        dtype: the dtype that the base model is meant to be used in.
        attn_implementation: the attention that it is meant to be used with.
        renamed_base: whether the adapter may call its base model something else.

    Raises:
        ArtifactError: if the folder is no such adapter, or names another base model.
        BaseModelError: if the base model cannot be used.
        TargetExistsError: if `to` holds anything.
    """
    _refuse_full(to)
    adapter = Adapter.load(folder)
    if not renamed_base:
        refuse_other_base(adapter, base_model)
    base = load_base(
        base_model, revision=revision, dtype=dtype, attn_implementation=attn_implementation
    )
    to_artifact(adapter, base).save(to)


def _refuse_full(to: Path) -> None:
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise TargetExistsError(f"--to {to} is already there: give a new folder or remove it")
