"""PEFT's adapter folder: what is written is read back, and what is no such folder is refused."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from trainable.errors import ArtifactError
from trainable.peft_format import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE, Adapter, adapter_fields

VIRTUAL_VD = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Adapter(VIRTUAL_VD, adapter_fields(VIRTUAL_VD)).save(tmp_path / "adapter", "# card\n")
    return tmp_path / "adapter"


def edit(folder: Path, **fields: Any) -> None:
    path = folder / CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_round_trip(folder: Path) -> None:
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted([CONFIG_FILE, WEIGHTS_FILE, CARD_FILE])
    again = Adapter.load(folder)
    assert torch.equal(again.virtual_VD, VIRTUAL_VD)
    assert again.config == adapter_fields(VIRTUAL_VD)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_are_read(folder: Path, dtype: torch.dtype) -> None:
    save_file({"prompt_embeddings": VIRTUAL_VD.to(dtype)}, folder / WEIGHTS_FILE)
    found = Adapter.load(folder).virtual_VD
    assert found.dtype == torch.float32
    assert torch.equal(found, VIRTUAL_VD.to(dtype).float())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"peft_type": "LORA"}, "peft_type is 'LORA', expected 'PROMPT_TUNING'"),
        ({"peft_type": "P_TUNING"}, "peft_type is 'P_TUNING'"),
        ({"peft_type": "PREFIX_TUNING"}, "peft_type is 'PREFIX_TUNING'"),
        ({"peft_type": "MULTITASK_PROMPT_TUNING"}, "peft_type is 'MULTITASK_PROMPT_TUNING'"),
        ({"task_type": "SEQ_2_SEQ_LM"}, "task_type is 'SEQ_2_SEQ_LM', expected 'CAUSAL_LM'"),
        ({"task_type": None}, "task_type is None"),
        ({"num_transformer_submodules": 2}, "num_transformer_submodules is 2, expected 1"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is"),
        (
            {"num_virtual_tokens": 4},
            r"of shape \[3, 4\], expected finite numbers of shape \[4, 4\]",
        ),
        ({"token_dim": 8}, r"expected finite numbers of shape \[3, 8\]"),
    ],
)
def test_other_kinds_are_refused_by_field(folder: Path, fields: dict[str, Any], words: str) -> None:
    edit(folder, **fields)
    with pytest.raises(ArtifactError, match=words):
        Adapter.load(folder)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"prompt_embeddings": VIRTUAL_VD, "base_model.lm_head": VIRTUAL_VD + 1}, "lm_head"),
        ({"weights": VIRTUAL_VD}, "holds weights, expected `prompt_embeddings` alone"),
        ({}, "holds nothing"),
        ({"prompt_embeddings": torch.full((3, 4), torch.nan)}, "expected finite numbers"),
        ({"prompt_embeddings": VIRTUAL_VD[0]}, "of shape"),
    ],
)
def test_other_tensors_are_refused(
    folder: Path, tensors: dict[str, torch.Tensor], words: str
) -> None:
    save_file(tensors, folder / WEIGHTS_FILE)
    with pytest.raises(ArtifactError, match=words):
        Adapter.load(folder)


class Trap:
    """Unpickled, it would raise."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return exec, ("raise RuntimeError('unpickled')",)


def test_pickled_weights_are_never_opened(folder: Path) -> None:
    (folder / WEIGHTS_FILE).unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ArtifactError, match=r"adapter_model\.bin, a pickle.*save it again"):
        Adapter.load(folder)


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=f"no PEFT adapter folder: it has no {name}"):
        Adapter.load(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [(CONFIG_FILE, b"{"), (CONFIG_FILE, b"[1]"), (CONFIG_FILE, b"\xff"), (WEIGHTS_FILE, b"\x80")],
)
def test_a_damaged_file_is_named(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=name):
        Adapter.load(folder)
