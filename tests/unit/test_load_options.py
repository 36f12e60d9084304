"""Ways of loading that cannot carry latents are refused by field, before anything is read."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from trainable.base_model import options as options_module
from trainable.base_model.loading import load_base
from trainable.base_model.options import LoadOptions, is_commit, is_model_id
from trainable.errors import BaseModelError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"dtype": "float7"}, ["base_model.dtype='float7'", "float32"]),
        ({"attn_implementation": "magic"}, ["base_model.attn_implementation='magic'", "sdpa"]),
        ({"attn_implementation": "flash_attention_2"}, ["packed sequences", "`sdpa` or `eager`"]),
        ({"attn_implementation": "flash_attention_3"}, ["packed sequences", "`sdpa` or `eager`"]),
        ({"attn_implementation": "flex_attention"}, ["not tested", "`sdpa` or `eager`"]),
        ({"quantization": "gptq"}, ["base_model.quantization='gptq'", "bitsandbytes-4bit"]),
        (
            {"device": "cpu", "device_map": "auto"},
            ["base_model.device='cpu'", "base_model.device_map='auto'", "exclude each other"],
        ),
        ({"device_map": "autoo"}, ["base_model.device_map='autoo'", "auto, balanced, ", "cuda:1"]),
        ({"device_map": "cuda:"}, ["base_model.device_map='cuda:'", "one of"]),
        ({"device_map": "disk"}, ["base_model.device_map='disk'", "one of"]),
        ({"device_map": {}}, ["base_model.device_map={}", "one of"]),
        ({"device_map": {"lm_head": "gpu"}}, ["base_model.device_map={'lm_head': 'gpu'}"]),
        ({"device_map": {"lm_head": True}}, ["base_model.device_map={'lm_head': True}"]),
        ({"trust_remote_code": True}, ["base_model.revision", "40 hexadecimal", "got None"]),
        ({"trust_remote_code": True, "revision": "main"}, ["40 hexadecimal", "got 'main'"]),
        ({"trust_remote_code": True, "revision": COMMIT[:-1]}, ["40 hexadecimal"]),
        ({"trust_remote_code": True, "revision": COMMIT.upper()}, ["40 hexadecimal"]),
    ],
)
def test_a_refusal_names_the_field_and_the_remedy(fields: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(BaseModelError) as caught:
        LoadOptions(**fields)
    for word in ["base_model.", *words]:
        assert word in str(caught.value)
    with pytest.raises(BaseModelError, match="base_model"):
        load_base("bundled", **fields)


def test_what_is_legal() -> None:
    LoadOptions()
    LoadOptions(trust_remote_code=True, revision=COMMIT)
    for device_map in ("auto", "balanced_low_0", "cpu", "cuda", "cuda:1", {"model": 0}):
        LoadOptions(device_map=device_map)
    LoadOptions(device_map={"": "cpu"}, quantization="bitsandbytes-8bit", dtype="float16")


def test_code_of_a_folder_is_pinned_by_nothing() -> None:
    chosen = LoadOptions(trust_remote_code=True, revision=COMMIT)
    with pytest.raises(BaseModelError, match=r"folder, which has no revision.*give the model id"):
        chosen.check_code_source("models/mine", is_local=True)
    chosen.check_code_source("someone/model", is_local=False)
    LoadOptions().check_code_source("models/mine", is_local=True)
    with pytest.raises(BaseModelError, match="'bundled' is a folder"):
        load_base("bundled", trust_remote_code=True, revision=COMMIT)


@pytest.mark.parametrize(
    ("fields", "absent", "words"),
    [
        ({"quantization": "bitsandbytes-4bit"}, {"bitsandbytes"}, ["needs bitsandbytes,"]),
        (
            {"quantization": "bitsandbytes-8bit"},
            {"bitsandbytes", "accelerate"},
            ["needs bitsandbytes and accelerate", "pip install 'latentune[quantized]'"],
        ),
        (
            {"device_map": "auto"},
            {"accelerate"},
            ["base_model.device_map='auto'", "pip install 'latentune[accelerate]'"],
        ),
    ],
)
def test_a_missing_package_names_its_extra(
    fields: dict[str, Any], absent: set[str], words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    there = importlib.util.find_spec

    def find(name: str) -> object:
        return None if name in absent else there(name)

    monkeypatch.setattr(options_module, "find_spec", find)
    with pytest.raises(BaseModelError) as caught:
        load_base("bundled", **fields)
    for word in words:
        assert word in str(caught.value)


def test_what_nobody_asks_for_need_not_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options_module, "find_spec", lambda _: None)
    LoadOptions().check_extras()


@pytest.mark.parametrize("revision", [None, 7, "main", COMMIT + "0", ""])
def test_only_a_full_hash_is_a_commit(revision: object) -> None:
    assert not is_commit(revision)
    assert is_commit(COMMIT)


@pytest.mark.parametrize("source", ["/models/mine", "a/b/c", "./mine", "../mine", ""])
def test_a_path_is_no_model_id(source: str) -> None:
    assert not is_model_id(source)
    assert is_model_id("gpt2")
    assert is_model_id("someone/Model-1.5_b")
