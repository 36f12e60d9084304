"""Latent tokens in memory: where they start, and how they meet a model again.

Shape suffixes: L latents in all groups, D embedding width, V vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainable.artifact import Artifact
from trainable.base_model.options import refuse_implementation
from trainable.base_model.probe import dtype_of, probe_deviation, quantization_of, tolerance
from trainable.decoding import LatentLM
from trainable.errors import ArtifactError, BaseModelError, FingerprintError, TrialError
from trainable.fingerprint import model_fingerprint, tokenizer_hash
from trainable.special_ids import special_ids
from trainable.trial import InitConfig

logger = logging.getLogger(__name__)

_IDENTITY = ("path", "fingerprint", "tokenizer_hash", "dtype")


def init_latents(
    init: InitConfig,
    count: int,
    seed: int,
    embeddings: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
) -> torch.Tensor:
    """Draw starting latents, [L, D] float32, on the CPU.

    Args:
        count: L.
        seed: decides the draw; the same on every machine.
        embeddings: the model's input embeddings: what they return is the latents' space.

    Raises:
        TrialError: if `init.text` has no tokens.
    """
    generator = torch.Generator().manual_seed(seed)
    table_VD = _embedding_table(embeddings)
    if init.kind == "vocab":
        specials = special_ids(tokenizer)
        ordinary = [i for i in range(min(len(tokenizer), len(table_VD))) if i not in specials]
        picked = torch.randint(len(ordinary), (count,), generator=generator)
        return table_VD[torch.tensor(ordinary)[picked]]
    if init.kind == "text":
        ids = tokenizer(init.text, add_special_tokens=False)["input_ids"]
        if not ids:
            raise TrialError(f"init.text={init.text!r} has no tokens: give some text")
        return table_VD[torch.tensor([ids[row % len(ids)] for row in range(count)]).long()]
    noise_LD = torch.randn(count, table_VD.shape[1], generator=generator)
    return table_VD.mean(0) + init.scale * table_VD.std(0) * noise_LD


@torch.no_grad()
def _embedding_table(embeddings: torch.nn.Module) -> torch.Tensor:
    """What the embeddings return for each id, [V, D]: scaled, where the model scales them."""
    weight_VD = next(embeddings.parameters())
    table_VD: torch.Tensor = embeddings(torch.arange(len(weight_VD), device=weight_VD.device))
    return table_VD.float().cpu()


@dataclass(frozen=True)
class LatentTokens:
    """Trained latents: loaded from an artifact folder, attached to their base model."""

    artifact: Artifact

    @classmethod
    def load(cls, folder: str | Path) -> LatentTokens:
        """Read an artifact folder. Raises ArtifactError as `Artifact.load` does."""
        return cls(Artifact.load(Path(folder)))

    def save(self, folder: str | Path) -> None:
        """Write an artifact folder."""
        self.artifact.save(Path(folder))

    def attach(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> LatentLM:
        """Join the latents and the base model that they were trained on.

        Args:
            model: the base model, loaded by `from_pretrained`; it is left in eval() mode.

        Returns:
            A model whose `generate` works as the base's own.

        Raises:
            FingerprintError: if model or tokenizer are not those of the training, or the model's
                weights were changed after loading, as far as a few logits can tell.
            BaseModelError: if its attention implementation cannot carry latents.
            ArtifactError: if the artifact does not say which they were.
        """
        if isinstance(model, LatentLM):
            raise BaseModelError(
                "the model already carries latents: attach to its base model, its `frozen`"
            )
        self._check_base(model, tokenizer)
        return LatentLM.build(model, tokenizer, self.artifact)

    def _check_base(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        expected = self.artifact.base_model
        missing = [name for name in _IDENTITY if name not in expected]
        if missing:
            raise ArtifactError(
                f"the artifact does not say which base model it belongs to (no base_model."
                f"{missing[0]}): pull it again"
            )
        refuse_implementation(model.config._attn_implementation, "the model's attn_implementation")
        _check_files(model, expected)
        if tokenizer_hash(tokenizer) != expected["tokenizer_hash"]:
            raise FingerprintError(
                f"the tokenizer differs from the one of training ({expected['path']!r}): its "
                "vocabulary or its rules have changed; load the base model's own"
            )
        _check_memory(model, expected)


def _check_files(model: PreTrainedModel, expected: Mapping[str, Any]) -> None:
    """Refuse a model whose files are not those of the training."""
    source = model.config._name_or_path
    if not source:
        raise FingerprintError(
            "the model was not loaded by from_pretrained, so it cannot be identified: load "
            f"{expected['path']!r} from its folder or model id"
        )
    found = _fingerprints(source, expected)
    if expected["fingerprint"] not in found:
        raise FingerprintError(
            f"these latents belong to the base model {expected['path']!r} with fingerprint "
            f"{expected['fingerprint'][:16]}…, but {source!r} has {found[0][:16]}…: load the "
            "model that they were trained on"
        )
    ran = type(model).__module__.split(".")  # own code lies in a package named by its commit
    if expected.get("trust_remote_code") and expected.get("revision") not in ran:
        raise FingerprintError(
            f"these latents belong to {expected['path']!r} with the code of its revision "
            f"{expected.get('revision')}, but {type(model).__name__} is other code: load that "
            "revision"
        )


def _fingerprints(source: str, expected: Mapping[str, Any]) -> list[str]:
    """What a model of this name may be: its default revision, or the one of the training.

    A model in memory does not say from which revision it came; its logits do (`_check_memory`).
    """
    own_code, refusal, found = bool(expected.get("trust_remote_code")), None, []
    for revision in dict.fromkeys([None, expected.get("revision")]):
        try:
            found.append(model_fingerprint(source, revision, own_code=own_code))
        except BaseModelError as error:  # this machine may hold one of the two alone
            refusal = error
    if not found and refusal is not None:
        raise refusal
    return found


def _check_memory(model: PreTrainedModel, expected: Mapping[str, Any]) -> None:
    """Warn of other precision; refuse weights in memory that are plainly not the files' own."""
    trained, met = (expected["dtype"], expected.get("quantization")), _precision(model)
    if trained != met:
        logger.warning(
            "the latents were trained on the base model in %s and meet it in %s: scores may "
            "differ slightly", _said(*trained), _said(*met),
        )  # fmt: skip
    probe = expected.get("probe")
    if probe is None or trained[1] or met[1]:
        return
    try:
        deviation = probe_deviation(model.eval(), probe)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ArtifactError(
            f"the artifact's base_model.probe is damaged ({error}): pull it again"
        ) from error
    if not deviation <= tolerance(trained[0], met[0]):
        raise FingerprintError(
            f"the model's files are those of training ({expected['path']!r}), but its weights in "
            f"memory are not: its logits on a fixed sequence deviate by {deviation:.2g} of their "
            f"spread, at most {tolerance(trained[0], met[0]):g}; load it again, without adapters "
            "or later training"
        )


def _precision(model: PreTrainedModel) -> tuple[str, str | None]:
    return dtype_of(model), quantization_of(model)


def _said(dtype: str, quantization: str | None) -> str:
    return dtype if quantization is None else f"{quantization} ({dtype})"
