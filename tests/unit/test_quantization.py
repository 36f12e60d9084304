"""Quantised base models, with bitsandbytes on the CPU: they load, train latents and decode."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from orchestrator.usage import attach_folder
from tests.decoding_reference import artifact_of
from trainable.base_model.loading import BaseModel, load_base
from trainable.data import EncodedTask
from trainable.engine import Engine, TrialSpec
from trainable.latents import LatentTokens
from trainable.strategy import InsertionStrategy
from trainable.trial import TrialConfig

START2 = InsertionStrategy.from_dict({"triggers": {"s": {"kind": "start", "m": 2}}})
QUANTIZATIONS = ("bitsandbytes-4bit", "bitsandbytes-8bit")


@pytest.fixture(scope="module")
def plain() -> BaseModel:
    return load_base("bundled", device="cpu")


@pytest.fixture(scope="module", params=QUANTIZATIONS)
def base(request: pytest.FixtureRequest) -> BaseModel:
    return load_base("bundled", quantization=request.param, device="cpu")


def test_a_quantised_model_is_the_same_model_in_fewer_bits(
    base: BaseModel, plain: BaseModel
) -> None:
    described = base.describe()
    assert described["quantization"] in QUANTIZATIONS
    assert described["dtype"] == "float32"
    assert base.fingerprint == plain.fingerprint
    assert base.space == plain.space
    assert base.model.model.layers[0].mlp.up_proj.weight.dtype in (torch.int8, torch.uint8)
    ids = base.tokenizer("44@47=83,47@83=34,", return_tensors="pt")["input_ids"]
    wide, narrow = plain.model(input_ids=ids).logits, base.model(input_ids=ids).logits
    assert 0 < (wide - narrow).norm() < 0.2 * wide.norm()


def engine_with_a_trial(base: BaseModel, data: EncodedTask) -> Engine:
    engine = Engine(base)
    engine.join(TrialSpec("t", TrialConfig(strategy=START2), 5), data)
    return engine


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_latents_train_on_it_and_leave_it_as_it_was(
    base: BaseModel, plain: BaseModel, dtype: str, tiny_data: EncodedTask
) -> None:
    quantization = base.describe()["quantization"]
    quantised = load_base("bundled", quantization=quantization, dtype=dtype, device="cpu")
    before = [each.clone() for each in quantised.model.state_dict().values()]
    engine = engine_with_a_trial(quantised, tiny_data)
    found = engine.gradients(["t"])[0].flatten()
    expected = engine_with_a_trial(plain, tiny_data).gradients(["t"])[0].flatten()
    assert torch.cosine_similarity(found, expected, dim=0) > 0.9
    start = engine.state("t").latents
    engine.step()
    assert (engine.state("t").latents != start).all()
    after = quantised.model.state_dict().values()
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_an_artifact_comes_back_to_the_same_precision(
    base: BaseModel, plain: BaseModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    artifact_of(base, START2).save(tmp_path / "artifact")
    lm, latents = attach_folder(tmp_path / "artifact", None)
    ids = lm.tokenizer("44@47=", return_tensors="pt")["input_ids"]
    assert lm.generate(ids, max_new_tokens=4, do_sample=False).shape == (1, ids.shape[1] + 4)
    assert not caplog.records
    LatentTokens(latents.artifact).attach(plain.model, plain.tokenizer)
    assert f"trained on the base model in {base.describe()['quantization']}" in caplog.text
    assert "meet it in float32" in caplog.text


def test_a_folder_of_quantised_weights_loads_as_it_is(
    base: BaseModel, plain: BaseModel, tmp_path: Path
) -> None:
    base.model.save_pretrained(tmp_path)
    base.tokenizer.save_pretrained(tmp_path)
    again = load_base(str(tmp_path), device="cpu")
    assert again.describe()["quantization"] == base.describe()["quantization"]
    assert again.fingerprint != plain.fingerprint  # its files are other weights
