"""Loading a base model: what cannot carry latents is refused, with its path and a remedy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    LlamaForCausalLM,
    LlamaModel,
    PreTrainedTokenizerFast,
    T5Config,
)

from tests.conftest import MakeFolder, tiny_llama
from tests.hub import CachedHub
from trainable.base_model.loading import BaseModel, check_base, load_base
from trainable.data import EncodedTask
from trainable.engine import Engine, TrialSpec
from trainable.errors import BaseModelError
from trainable.strategy import InsertionStrategy
from trainable.trial import TrialConfig


@pytest.fixture
def copy(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def refused(folder: Path | str, *words: str, load: bool = False) -> None:
    with pytest.raises(BaseModelError) as caught:
        (load_base if load else check_base)(str(folder))
    message = str(caught.value)
    assert repr(str(folder)) in message
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_base_model_is_frozen_and_identified(tiny_base: BaseModel, tiny_folder: Path) -> None:
    check_base(str(tiny_folder))
    assert not tiny_base.model.training
    assert not any(p.requires_grad for p in tiny_base.model.parameters())
    described = tiny_base.describe()
    assert described["path"] == str(tiny_folder)
    assert described["dtype"] == "float32"
    assert described["hidden_size"] == 32
    assert len(described["fingerprint"]) == len(described["tokenizer_hash"]) == 64
    json.dumps(described)


def test_another_dtype(tiny_folder: Path, tiny_base: BaseModel) -> None:
    base = load_base(str(tiny_folder), dtype="bfloat16", device="cpu")
    assert base.model.dtype == torch.bfloat16
    assert base.describe()["dtype"] == "bfloat16"
    assert base.fingerprint == tiny_base.fingerprint


def test_float16(tiny_folder: Path, tiny_base: BaseModel) -> None:
    base = load_base(str(tiny_folder), dtype="float16", device="cpu")
    assert base.describe()["dtype"] == "float16"
    assert base.fingerprint == tiny_base.fingerprint


def test_tied_embeddings(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    config = tiny_llama(tokenizer).config
    config.tie_word_embeddings = True
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = load_base(str(tmp_path), device="cpu").model
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    assert next(head.parameters()) is next(embeddings.parameters())


FIRST, SECOND = "a1" * 20, "b2" * 20


def test_the_commit_that_was_loaded_is_known(
    tiny_folder: Path, make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = CachedHub(tmp_path, monkeypatch)
    hub.add("someone/model", FIRST, tiny_folder)
    hub.add("someone/model", SECOND, make_folder(seed=1), main=True)
    newest = load_base("someone/model", device="cpu")
    pinned = load_base("someone/model", revision=FIRST, device="cpu")
    assert (newest.revision, pinned.revision) == (SECOND, FIRST)
    assert newest.fingerprint != pinned.fingerprint
    assert load_base("someone/model", revision="main", device="cpu").revision == SECOND


def test_a_missing_folder(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "save_pretrained")


def test_a_model_id_that_is_not_there_says_that_nobody_asked_the_hub() -> None:
    refused("nobody/no-such-model", "HF_HUB_OFFLINE is set", "hf download nobody/no-such-model")


def test_a_folder_without_config(copy: Path) -> None:
    (copy / "config.json").unlink()
    refused(copy, "save_pretrained")


def test_a_damaged_config(copy: Path) -> None:
    (copy / "config.json").write_text("{")
    refused(copy, "no base model")


def test_an_unknown_model_type(copy: Path) -> None:
    (copy / "config.json").write_text('{"model_type": "no-such-type"}')
    refused(copy, "no-such-type")


def test_an_encoder_decoder(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    T5Config(vocab_size=len(tokenizer), d_model=16, num_layers=1).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    refused(tmp_path, "t5", "decoder-only", "e.g. a Llama")


def test_a_masked_language_model(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    config = BertConfig(vocab_size=105, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    BertForMaskedLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    refused(tmp_path, "BertForMaskedLM", "ForCausalLM")


def test_a_model_without_its_head(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    LlamaModel(tiny_llama(tokenizer).config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    refused(tmp_path, "LlamaModel", "ForCausalLM")


def test_no_tokenizer(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    tiny_llama(tokenizer).save_pretrained(tmp_path)
    refused(tmp_path, "lacks a", "tokenizer", "same folder")


def test_a_damaged_tokenizer(copy: Path) -> None:
    (copy / "tokenizer.json").write_text("{}")
    refused(copy, "tokenizer", "same folder")


def test_no_weights(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    check_base(str(copy))  # it reads no weights
    refused(copy, "model.safetensors", load=True)


@pytest.mark.parametrize("keep", [0, 100, 40_000])
def test_damaged_weights(copy: Path, keep: int) -> None:
    weights = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(weights[:keep])
    refused(copy, "cannot be loaded", load=True)


def test_weights_that_lack_a_tensor_are_refused(copy: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    del weights["model.layers.1.self_attn.q_proj.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    refused(copy, "q_proj", load=True)


def test_weights_of_another_size_are_refused(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"intermediate_size": 64}))
    refused(copy, "cannot be loaded", load=True)


def test_an_unknown_dtype(tiny_folder: Path) -> None:
    with pytest.raises(BaseModelError, match=r"base_model\.dtype='float7'.*float32"):
        load_base(str(tiny_folder), dtype="float7")


def test_a_gpu_that_is_not_there(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BaseModelError, match=r"base_model.device='cuda'.*use `auto` or `cpu`"):
        load_base(str(tiny_folder), device="cuda")


def test_layers_without_plain_attention_are_refused_before_a_search_not_after_it(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    config = Lfm2Config(
        vocab_size=len(tokenizer),
        layer_types=["conv", "full_attention"],
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    Lfm2ForCausalLM(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(BaseModelError, match="conv layers"):
        load_base(str(tmp_path / "model"))


def test_a_tokenizer_with_more_ids_than_the_model_has_embeddings(copy: Path) -> None:
    found = json.loads((copy / "tokenizer.json").read_text())
    found["model"]["vocab"]["long"] = 10_000
    (copy / "tokenizer.json").write_text(json.dumps(found))
    refused(copy, "10000", "embeddings", load=True)


@pytest.mark.parametrize("device_map", ["auto", "cpu", {"": "cpu"}])
def test_a_device_map(
    tiny_folder: Path, tiny_base: BaseModel, tiny_data: EncodedTask, device_map: object
) -> None:
    base = load_base(str(tiny_folder), device_map=device_map)
    assert base.fingerprint == tiny_base.fingerprint
    gradients = []
    for each in (base, tiny_base):
        engine = Engine(each)
        engine.join(TrialSpec("t", TrialConfig(strategy=START), 1), tiny_data)
        gradients.append(engine.gradients(["t"])[0])
    assert torch.equal(*gradients)


@pytest.mark.parametrize("device_map", ["cuda:1", {"model": "cpu", "lm_head": 1}])
def test_a_device_map_with_a_gpu_that_is_not_there(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, device_map: object
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(BaseModelError, match=r"base_model\.device_map=.*torch sees 1 GPUs here"):
        load_base(str(tiny_folder), device_map=device_map)


START = InsertionStrategy.from_dict({"triggers": {"s": {"kind": "start", "m": 2}}})


def test_a_model_that_is_partly_on_the_disk_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    places = {
        "model.embed_tokens": "cpu",
        "model.layers.0": "cpu",
        "model.layers.1": "disk",
        "model.norm": "cpu",
        "model.rotary_emb": "cpu",
        "lm_head": "cpu",
    }
    with pytest.raises(BaseModelError, match=r"base_model.device_map=.*model\.layers\.1.*quantiz"):
        load_base(str(tiny_folder), device_map=places)
