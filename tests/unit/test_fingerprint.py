"""Fingerprints: content and not name decides which base model latents belong to."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from tests.conftest import MakeFolder, tiny_llama
from tests.hub import CachedHub
from trainable.artifact import Artifact
from trainable.base_model.loading import BaseModel, load_base
from trainable.decoding import LatentLM
from trainable.errors import ArtifactError, BaseModelError, FingerprintError
from trainable.fingerprint import model_fingerprint, tokenizer_hash
from trainable.latents import LatentTokens
from trainable.trial import TrialConfig


@pytest.fixture
def copy(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "under another name"))


def change_config(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def fingerprint(folder: Path) -> str:
    return model_fingerprint(str(folder), None)


def test_the_same_content_elsewhere_is_the_same(tiny_folder: Path, copy: Path) -> None:
    assert fingerprint(copy) == fingerprint(tiny_folder)
    assert len(fingerprint(copy)) == 64


@pytest.mark.parametrize(
    "fields",
    [
        {"dtype": "bfloat16"},
        {"torch_dtype": "bfloat16"},
        {"transformers_version": "9.0"},
        {"quantization_config": {"load_in_8bit": True}},
        {"_name_or_path": "elsewhere"},
        {"use_cache": False},
    ],
)
def test_dtype_and_versions_are_left_out(
    tiny_folder: Path, copy: Path, fields: dict[str, Any]
) -> None:
    change_config(copy, **fields)
    assert fingerprint(copy) == fingerprint(tiny_folder)


def test_another_order_of_fields_is_the_same(tiny_folder: Path, copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(dict(reversed(config.items())), indent=7))
    assert fingerprint(copy) == fingerprint(tiny_folder)


@pytest.mark.parametrize("fields", [{"rope_theta": 5.0}, {"rms_norm_eps": 0.1}, {"new_field": 1}])
def test_another_configuration_is_another_model(
    tiny_folder: Path, copy: Path, fields: dict[str, Any]
) -> None:
    change_config(copy, **fields)
    assert fingerprint(copy) != fingerprint(tiny_folder)


def test_one_other_weight_is_another_model(tiny_folder: Path, copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    weights["model.norm.weight"][0] += 1e-6
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert fingerprint(copy) != fingerprint(tiny_folder)


def test_sharded_weights_are_hashed_shard_by_shard(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    tiny_llama(tokenizer).save_pretrained(tmp_path, max_shard_size="30KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    before = fingerprint(tmp_path)
    weights = load_file(shards[-1])
    weights[min(weights)].view(-1)[0] += 1e-6
    save_file(weights, shards[-1], metadata={"format": "pt"})
    assert fingerprint(tmp_path) != before


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_a_base_model_error(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(BaseModelError, match=name):
        fingerprint(copy)


def test_tokenizers_are_told_apart(tokenizer: PreTrainedTokenizerFast, tiny_folder: Path) -> None:
    loaded = AutoTokenizer.from_pretrained(tiny_folder)
    assert tokenizer_hash(loaded) == tokenizer_hash(tokenizer)
    loaded.add_tokens(["44@47="])
    assert tokenizer_hash(loaded) != tokenizer_hash(tokenizer)


def test_a_tokenizer_with_the_same_vocabulary_and_other_rules_is_another(
    tokenizer: PreTrainedTokenizerFast, tiny_folder: Path
) -> None:
    from tokenizers.normalizers import Lowercase

    lower = AutoTokenizer.from_pretrained(tiny_folder)
    lower.backend_tokenizer.normalizer = Lowercase()
    assert lower.get_vocab() == tokenizer.get_vocab()
    assert tokenizer_hash(lower) != tokenizer_hash(tokenizer)


@pytest.fixture
def latents(tiny_base: BaseModel) -> LatentTokens:
    config = TrialConfig.from_dict({"strategy": {"triggers": {"s": {"kind": "start", "m": 2}}}})
    values = np.ones((2, 32), np.float32)
    return LatentTokens(Artifact(latents=values, config=config, base_model=tiny_base.describe()))


def test_attach_takes_the_same_model_from_elsewhere(latents: LatentTokens, copy: Path) -> None:
    base = load_base(str(copy), device="cpu")
    assert isinstance(latents.attach(base.model, base.tokenizer), LatentLM)


def test_attach_works_after_saving_and_loading(
    latents: LatentTokens, tiny_base: BaseModel, tmp_path: Path
) -> None:
    latents.save(tmp_path / "a")
    again = LatentTokens.load(tmp_path / "a")
    lm = again.attach(tiny_base.model, tiny_base.tokenizer)
    assert torch.equal(lm.latents, torch.ones(2, 32))


def test_attach_refuses_another_model(latents: LatentTokens, make_folder: MakeFolder) -> None:
    other = load_base(str(make_folder(seed=1)), device="cpu")
    with pytest.raises(FingerprintError, match=r"belong to the base model .*: load"):
        latents.attach(other.model, other.tokenizer)


def test_attach_refuses_a_model_without_a_source(
    latents: LatentTokens, tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(FingerprintError, match="from_pretrained"):
        latents.attach(tiny_llama(tokenizer), tokenizer)


def test_attach_refuses_another_tokenizer(latents: LatentTokens, tiny_base: BaseModel) -> None:
    other = AutoTokenizer.from_pretrained(tiny_base.path)
    other.add_tokens(["44"])
    with pytest.raises(FingerprintError, match="tokenizer differs"):
        latents.attach(tiny_base.model, other)


def test_attach_in_another_dtype_warns(
    latents: LatentTokens, tiny_base: BaseModel, caplog: pytest.LogCaptureFixture
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_base.path, dtype=torch.bfloat16)
    with caplog.at_level(logging.WARNING, logger="trainable.latents"):
        latents.attach(model, tiny_base.tokenizer)
    assert "float32" in caplog.text
    assert "bfloat16" in caplog.text


def test_attach_finds_the_revision_of_the_training(
    latents: LatentTokens,
    tiny_folder: Path,
    make_folder: MakeFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """transformers does not note which revision a model in memory came from."""
    hub, trained, newer = CachedHub(tmp_path, monkeypatch), "a1" * 20, "b2" * 20
    hub.add("someone/model", trained, tiny_folder)
    hub.add("someone/model", newer, make_folder(seed=1), main=True)
    base_model = {**latents.artifact.base_model, "path": "someone/model", "revision": trained}
    pinned = LatentTokens(replace(latents.artifact, base_model=base_model))
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    same = AutoModelForCausalLM.from_pretrained("someone/model", revision=trained)
    assert isinstance(pinned.attach(same, tokenizer), LatentLM)
    other = AutoModelForCausalLM.from_pretrained("someone/model")
    with pytest.raises(FingerprintError, match="weights in memory are not"):
        pinned.attach(other, tokenizer)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attach_refuses_weights_that_were_changed_after_loading(
    latents: LatentTokens, tiny_base: BaseModel, dtype: torch.dtype
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_base.path, dtype=dtype)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.mul_(0.5)
    with pytest.raises(FingerprintError, match=r"weights in memory are not.*load it again"):
        latents.attach(model, tiny_base.tokenizer)


def test_a_few_steps_of_training_are_told(latents: LatentTokens, tiny_base: BaseModel) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_base.path)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    ids = torch.arange(4, 36)[None]
    for _ in range(3):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    with pytest.raises(FingerprintError, match="weights in memory are not"):
        latents.attach(model, tiny_base.tokenizer)


def test_rounding_is_no_other_model(latents: LatentTokens, tiny_base: BaseModel) -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        model = AutoModelForCausalLM.from_pretrained(tiny_base.path, dtype=dtype)
        latents.attach(model, tiny_base.tokenizer)


@pytest.mark.parametrize(
    "probe", [{}, {"ids": [4], "logits": "x"}, {"ids": [10_000], "logits": [1.0]}, [1]]
)
def test_a_damaged_probe_is_an_artifact_error(
    latents: LatentTokens, tiny_base: BaseModel, probe: object
) -> None:
    base_model = {**latents.artifact.base_model, "probe": probe}
    damaged = LatentTokens(replace(latents.artifact, base_model=base_model))
    with pytest.raises(ArtifactError, match=r"base_model.probe is damaged"):
        damaged.attach(tiny_base.model, tiny_base.tokenizer)


def test_an_artifact_from_before_probes_attaches(
    latents: LatentTokens, tiny_base: BaseModel
) -> None:
    base_model = {k: v for k, v in latents.artifact.base_model.items() if k in _BEFORE_PROBES}
    LatentTokens(replace(latents.artifact, base_model=base_model)).attach(
        tiny_base.model, tiny_base.tokenizer
    )


_BEFORE_PROBES = ("path", "revision", "fingerprint", "tokenizer_hash", "dtype")


def test_attach_refuses_attention_that_cuts(latents: LatentTokens, tiny_base: BaseModel) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_base.path)
    model.config._attn_implementation = "flash_attention_2"  # as where it is installed
    with pytest.raises(BaseModelError, match="attn_implementation='flash_attention_2'"):
        latents.attach(model, tiny_base.tokenizer)
