"""What is pulled is used as it was trained: the base model that an artifact names, loaded again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from orchestrator import usage
from orchestrator.interchange import export_peft
from orchestrator.sections import BaseModelConfig
from orchestrator.usage import attach_folder, base_of, generate_text
from tests.decoding_reference import artifact_of
from tests.families import FAMILIES
from trainable.artifact import CARD_FILE, CONFIG_FILE, Artifact
from trainable.base_model.loading import BaseModel, check_base, load_base
from trainable.data import EncodedTask
from trainable.engine import Engine, TrialSpec
from trainable.errors import BaseModelError
from trainable.strategy import InsertionStrategy
from trainable.trial import TrialConfig

START = InsertionStrategy.from_dict(
    {"triggers": {"s": {"kind": "start", "m": 2}}, "position_rule": "own"}
)


@pytest.fixture(scope="module")
def eager_only(
    tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast
) -> Path:
    """A tiny Gemma2, which has no sdpa attention."""
    kind, folder = FAMILIES["gemma2"], tmp_path_factory.mktemp("gemma2")
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in NAMES}
    config = kind.config(**kind.options, vocab_size=len(tokenizer), **special)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


NAMES = ("bos", "eos", "pad")


def test_what_has_no_sdpa_is_refused_with_the_remedy_before_its_weights(eager_only: Path) -> None:
    for refuse in (check_base, load_base):
        with pytest.raises(BaseModelError, match=r"base_model\.attn_implementation: eager"):
            refuse(str(eager_only))
    check_base(str(eager_only), attn_implementation="eager")


def test_what_was_trained_with_eager_attention_is_used_with_it(
    eager_only: Path, tiny_data: EncodedTask, tmp_path: Path
) -> None:
    section = BaseModelConfig(path=str(eager_only), device="cpu", attn_implementation="eager")
    engine = Engine(load_base(**section.model_dump()))  # as a search's engine does
    engine.join(TrialSpec("t", TrialConfig(strategy=START), 1), tiny_data)
    engine.step()
    folder = tmp_path / "artifact"
    Artifact(
        latents=engine.state("t").latents,
        config=TrialConfig(strategy=START),
        base_model=engine.base.describe(),
    ).save(folder)
    assert 'attn_implementation="eager"' in (folder / CARD_FILE).read_text()
    assert generate_text(folder, "44@47=", 3, None).startswith("44@47=")
    lm, _ = attach_folder(folder, None)
    assert lm.frozen.config._attn_implementation == "eager"
    export_peft(folder, tmp_path / "adapter", None)


def test_an_artifact_of_before_the_field_is_used_with_sdpa(
    tiny_base: BaseModel, tmp_path: Path
) -> None:
    artifact_of(tiny_base, START).save(tmp_path)
    config = json.loads((tmp_path / CONFIG_FILE).read_text())
    del config["sha256"]
    for name in ("attn_implementation", "device_map"):
        del config["base_model"][name]
    (tmp_path / CONFIG_FILE).write_text(json.dumps(config))
    lm, _ = attach_folder(tmp_path, None)
    assert lm.frozen.config._attn_implementation == "sdpa"
    assert "attn_implementation" not in (tmp_path / CARD_FILE).read_text()


@pytest.mark.parametrize(
    ("given", "kept"), [("auto", "auto"), ("cpu", None), ({"": "cpu"}, None), (None, None)]
)
def test_a_word_for_spreading_is_kept_and_the_devices_of_one_machine_are_not(
    tiny_base: BaseModel, given: Any, kept: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = load_base(tiny_base.path, device_map=given)
    assert base.describe()["device_map"] == kept
    artifact = artifact_of(base, START)
    assert base_of(artifact, None, trust_remote_code=False).device_map == kept
    monkeypatch.setattr(usage, "can_spread", lambda: False)  # accelerate is not installed
    assert base_of(artifact, None, trust_remote_code=False).device_map is None
