"""PEFT's prompt-tuning adapter folder, written and read without the peft package.

    adapter_config.json          what kind of adapter it is, and its sizes
    adapter_model.safetensors    "prompt_embeddings": [V, D]
    README.md                    a model card

Pickled weights (`adapter_model.bin`) are never opened.

Shape suffixes: V virtual tokens, D width.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save_file

from trainable.errors import ArtifactError
from trainable.foreign_files import read_mapping, read_tensors
from trainable.whole_folder import whole_folder

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
CARD_FILE = "README.md"
_PICKLED = "adapter_model.bin"
_TENSOR = "prompt_embeddings"
_PEFT_VERSION = "0.21.2"  # whose fields these are


@dataclass(frozen=True)
class Adapter:
    """A prompt-tuning adapter's folder.

    Args:
        virtual_VD: float32.
        config: the fields of `adapter_config.json`.
    """

    virtual_VD: torch.Tensor
    config: Mapping[str, Any]

    @classmethod
    def load(cls, folder: Path) -> Adapter:
        """Read an adapter folder.

        Raises:
            ArtifactError: if it is damaged, pickled, or an adapter of another kind.
        """
        config = _read_config(folder)
        _refuse_other_kinds(folder, config)
        if not (folder / WEIGHTS_FILE).is_file():
            raise ArtifactError(_missing_weights(folder))
        tensors = read_tensors(folder / WEIGHTS_FILE, load, links=True)  # of a hub's cache
        if set(tensors) != {_TENSOR}:
            raise ArtifactError(
                f"{folder / WEIGHTS_FILE} holds {', '.join(sorted(tensors)) or 'nothing'}, "
                f"expected `{_TENSOR}` alone: latents cannot stand for other weights"
            )
        virtual_VD = tensors[_TENSOR].float()
        expected = (config.get("num_virtual_tokens"), config.get("token_dim"))
        if tuple(virtual_VD.shape) != expected or not virtual_VD.isfinite().all():
            raise ArtifactError(
                f"{folder / WEIGHTS_FILE} has {_TENSOR} of shape {list(virtual_VD.shape)}, "
                f"expected finite numbers of shape {list(expected)}, as num_virtual_tokens and "
                "token_dim say"
            )
        return cls(virtual_VD, config)

    def save(self, folder: Path, card: str) -> None:
        """Write the folder; it appears whole or not at all."""
        with whole_folder(folder) as scratch:
            text = json.dumps(dict(sorted(self.config.items())), indent=2)
            (scratch / CONFIG_FILE).write_text(text)
            tensors = {_TENSOR: self.virtual_VD.contiguous()}
            save_file(tensors, scratch / WEIGHTS_FILE, metadata={"format": "pt"})
            (scratch / CARD_FILE).write_text(card)


def adapter_fields(virtual_VD: torch.Tensor) -> dict[str, Any]:
    """The fields of `adapter_config.json` that prompt tuning always has, and the sizes."""
    return {
        "auto_mapping": None,
        "inference_mode": True,
        "modules_to_save": None,
        "num_transformer_submodules": 1,
        "num_virtual_tokens": virtual_VD.shape[0],
        "peft_type": "PROMPT_TUNING",
        "peft_version": _PEFT_VERSION,
        "prompt_tuning_init": "RANDOM",
        "prompt_tuning_init_text": None,
        "task_type": "CAUSAL_LM",
        "token_dim": virtual_VD.shape[1],
        "tokenizer_kwargs": None,
        "tokenizer_name_or_path": None,
    }


def _read_config(folder: Path) -> Mapping[str, Any]:
    if not (folder / CONFIG_FILE).is_file():
        raise ArtifactError(f"{folder} is no PEFT adapter folder: it has no {CONFIG_FILE}")
    return read_mapping(folder / CONFIG_FILE, links=True)  # of a hub's cache


def _refuse_other_kinds(folder: Path, config: Mapping[str, Any]) -> None:
    expected: dict[str, tuple[Any, ...]] = {
        "peft_type": ("PROMPT_TUNING",),
        "task_type": ("CAUSAL_LM",),
        "num_transformer_submodules": (1, None),
        "modules_to_save": (None, []),
    }
    for field, allowed in expected.items():
        if config.get(field) not in allowed:
            raise ArtifactError(
                f"{folder / CONFIG_FILE}: {field} is {config.get(field)!r}, expected "
                f"{allowed[0]!r}: only prompt tuning of a decoder-only model is latents at the "
                "start"
            )


def _missing_weights(folder: Path) -> str:
    if (folder / _PICKLED).exists():
        return (
            f"{folder} holds its weights in {_PICKLED}, a pickle, which can run code when it is "
            "read: load it with peft where you trust it, and save it again as safetensors"
        )
    return f"{folder} is no PEFT adapter folder: it has no {WEIGHTS_FILE}"
