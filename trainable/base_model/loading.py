"""Load a frozen base model, or say why it cannot carry latent tokens."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from trainable.attention_masks import refuse_attention
from trainable.errors import BaseModelError
from trainable.fingerprint import model_fingerprint, tokenizer_hash

logger = logging.getLogger(__name__)

BUNDLED = "bundled"
BUNDLED_FOLDER = Path(__file__).parent / "bundled"
DTYPES = ("float32", "bfloat16", "float16", "float64")


@dataclass(frozen=True)
class BaseModel:
    """A frozen model in memory and what identifies it.

    Args:
        model: in eval mode, no parameter requires a gradient.
        path: as the user named it ("bundled", a folder, a model id).
        revision: the commit that was loaded, where the source has commits.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    path: str
    revision: str | None
    fingerprint: str
    tokenizer_hash: str

    @property
    def embeddings(self) -> torch.nn.Module:
        """The input embeddings; what they return is the space that latents live in."""
        return self.model.get_input_embeddings()

    def describe(self) -> dict[str, Any]:
        """Plain data that identifies the model in an artifact."""
        return {
            "path": self.path,
            "revision": self.revision,
            "fingerprint": self.fingerprint,
            "tokenizer_hash": self.tokenizer_hash,
            "model_type": self.model.config.model_type,
            "hidden_size": self.model.config.get_text_config().hidden_size,
            "dtype": str(self.model.dtype).removeprefix("torch."),
        }


def source_of(path: str) -> str:
    """The folder or model id behind a `base_model.path`."""
    return str(BUNDLED_FOLDER) if path == BUNDLED else path


def check_base(path: str, revision: str | None = None) -> None:
    """Refuse, before any weight is read, what cannot be a base model.

    Raises:
        BaseModelError: if there is no such model, it is no causal language model, or it has
            no tokenizer.
    """
    _load_config(path, revision)
    load_tokenizer(path, revision)


def load_base(
    path: str,
    *,
    revision: str | None = None,
    dtype: str = "float32",
    device: str = "auto",
    attn_implementation: str = "sdpa",
) -> BaseModel:
    """Load and freeze a causal language model.

    Args:
        path: "bundled", a folder written by `save_pretrained`, or a model id.
        dtype: one of `DTYPES`.
        device: "auto" takes a GPU where there is one.

    Raises:
        BaseModelError: as `check_base`, and if the weights are missing or unreadable.
    """
    config = _load_config(path, revision)
    tokenizer = load_tokenizer(path, revision)
    source = source_of(path)
    model = _load_weights(path, revision, dtype, attn_implementation)
    _check_vocabulary(path, model, tokenizer)
    refuse_attention(model)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise BaseModelError(
            "base_model.device='cuda', but torch sees no GPU here: use `auto` or `cpu`, or install "
            "a torch with CUDA"
        )
    model.to(torch.device(device)).eval().requires_grad_(False)  # type: ignore[arg-type]
    return BaseModel(
        model=model,
        tokenizer=tokenizer,
        path=path,
        revision=getattr(config, "_commit_hash", None) or revision,
        fingerprint=model_fingerprint(source, revision),
        tokenizer_hash=tokenizer_hash(tokenizer),
    )


def _check_vocabulary(
    path: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    rows = next(model.get_input_embeddings().parameters()).shape[0]
    highest = max(tokenizer.get_vocab().values())
    if highest >= rows:
        raise BaseModelError(
            f"base_model.path={path!r}: its tokenizer has ids up to {highest}, but the model only "
            f"{rows} embeddings: give the tokenizer that belongs to the model"
        )


def _load_config(path: str, revision: str | None) -> Any:
    try:
        config = AutoConfig.from_pretrained(source_of(path), revision=revision)
    except (OSError, ValueError) as error:
        raise BaseModelError(
            f"base_model.path={path!r} is no base model: {_first_line(error)} Give `bundled`, "
            "a folder written by save_pretrained, or the id of a cached or reachable model"
        ) from error
    if config.is_encoder_decoder or config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise BaseModelError(
            f"base_model.path={path!r} holds a {config.model_type} model, which is no causal "
            "(decoder-only) language model: latent tokens need one, e.g. a Llama or Qwen"
        )
    architectures = config.architectures or []
    if architectures and not any("CausalLM" in a or "LMHead" in a for a in architectures):
        raise BaseModelError(
            f"base_model.path={path!r} holds {', '.join(architectures)}, which predicts no next "
            "token: give the causal language model (…ForCausalLM)"
        )
    return config


def load_tokenizer(path: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """A base model's tokenizer. Raises BaseModelError if it has none that is usable."""
    remedy = "save the model's tokenizer into the same folder"
    try:
        tokenizer = AutoTokenizer.from_pretrained(source_of(path), revision=revision)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BaseModelError(
            f"base_model.path={path!r} lacks a tokenizer: {remedy} ({_first_line(error)})"
        ) from error
    if len(tokenizer) == 0 or not tokenizer("a,1")["input_ids"]:
        raise BaseModelError(f"base_model.path={path!r} lacks a usable tokenizer: {remedy}")
    return tokenizer


def _load_weights(
    path: str, revision: str | None, dtype: str, attn_implementation: str
) -> PreTrainedModel:
    if dtype not in DTYPES:
        raise BaseModelError(f"base_model.dtype={dtype!r} is unknown; one of {', '.join(DTYPES)}")
    loaded: Any  # with output_loading_info: the model, and what was found of it
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            source_of(path),
            revision=revision,
            dtype=getattr(torch, dtype),
            attn_implementation=attn_implementation,
            output_loading_info=True,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise BaseModelError(
            f"base_model.path={path!r} cannot be loaded: {_first_line(error)} Give a folder "
            "written by save_pretrained, or download the model again"
        ) from error
    model: PreTrainedModel = loaded[0]
    missing = sorted(loaded[1]["missing_keys"])
    if missing:  # transformers fills them with noise and goes on
        raise BaseModelError(
            f"base_model.path={path!r} lacks the weights {', '.join(missing)}: give the whole "
            "model as save_pretrained writes it"
        )
    return model


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".") + "."
