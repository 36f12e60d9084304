"""Latents at the start are PEFT's prompt tuning: the real package computes the same logits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GemmaForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from orchestrator.interchange import export_peft, import_peft
from orchestrator.usage import attach_folder, generate_text
from tests.conftest import tiny_llama
from tests.decoding_reference import artifact_of
from trainable.artifact import CARD_FILE, Artifact
from trainable.base_model.loading import BaseModel, load_base
from trainable.base_model.tokenizer import build_tokenizer
from trainable.batch import embed, prepare
from trainable.data import EncodedRow
from trainable.decoding import LatentLM
from trainable.engine import Engine
from trainable.errors import ArtifactError, BaseModelError, StrategyError
from trainable.latents import LatentTokens
from trainable.peft_format import CONFIG_FILE, Adapter
from trainable.prompt_tuning import refuse_other_base, to_adapter, to_artifact
from trainable.strategy import InsertionStrategy

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning"),
]
SMALL: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "initializer_range": 0.3, "tie_word_embeddings": False,
}  # fmt: skip
PROMPT = "44@47=83,"


def start(position_rule: str = "own", **fields: Any) -> InsertionStrategy:
    trigger = {"kind": "start", "m": 3} | fields
    return InsertionStrategy.from_dict({"triggers": {"s": trigger}, "position_rule": position_rule})


def without_bos() -> PreTrainedTokenizerFast:
    tokenizer = build_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A", pair="$A $B")
    return tokenizer


def models() -> dict[str, tuple[PreTrainedModel, PreTrainedTokenizerFast]]:
    tokenizer = build_tokenizer()
    ids: dict[str, Any] = {
        "vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    return {
        "llama": (tiny_llama(tokenizer), tokenizer),
        "no BOS": (tiny_llama(tokenizer), without_bos()),
        "gemma": (GemmaForCausalLM(GemmaConfig(**SMALL, **ids, head_dim=8)), tokenizer),
        "granite": (
            GraniteForCausalLM(GraniteConfig(**SMALL, **ids, embedding_multiplier=6.0)),
            tokenizer,
        ),
    }


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for name, (model, tokenizer) in models().items():
        made[name] = tmp_path_factory.mktemp("model")
        model.save_pretrained(made[name])
        tokenizer.save_pretrained(made[name])
    return made


@pytest.fixture(params=["llama", "no BOS", "gemma", "granite"])
def base(request: pytest.FixtureRequest, folders: dict[str, Path]) -> BaseModel:
    return load_base(str(folders[request.param]), device="cpu")


def peft_model(base: BaseModel, adapter: Path) -> Any:
    model = AutoModelForCausalLM.from_pretrained(base.path, dtype=base.model.dtype)
    return peft.PeftModel.from_pretrained(model, str(adapter)).eval()


@torch.no_grad()
def our_logits(base: BaseModel, artifact: Artifact, ids: Sequence[int]) -> torch.Tensor:
    """Logits at every slot, as training lays a sequence out, [1, T, V]."""
    row = EncodedRow(np.array(ids), len(ids) - 1, 0)
    prepared = prepare(0, row, Engine(base).resolve(artifact.config.strategy))
    latents = [torch.from_numpy(artifact.latents)]
    embeds_BTD, position_BT = embed([prepared], latents, base.embeddings)
    logits: torch.Tensor = base.model(
        inputs_embeds=embeds_BTD, position_ids=position_BT,
        attention_mask=torch.ones_like(position_BT), use_cache=False,
    ).logits  # fmt: skip
    return logits


@torch.no_grad()
def peft_logits(base: BaseModel, adapter: Path) -> torch.Tensor:
    inputs = base.tokenizer(PROMPT, add_special_tokens=False, return_tensors="pt")
    logits: torch.Tensor = peft_model(base, adapter)(
        input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
    ).logits
    return logits


def exported(base: BaseModel, folder: Path) -> tuple[Artifact, Path]:
    artifact = artifact_of(base, start())
    artifact.save(folder / "artifact")
    export_peft(folder / "artifact", folder / "adapter", None)
    return artifact, folder / "adapter"


def test_an_export_computes_the_same_logits(base: BaseModel, tmp_path: Path) -> None:
    artifact, adapter = exported(base, tmp_path)
    ours = our_logits(base, artifact, base.tokenizer(PROMPT)["input_ids"])
    theirs = peft_logits(base, adapter)
    assert ours.shape == theirs.shape
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5)


def test_with_specials_bos_comes_twice(folders: dict[str, Path], tmp_path: Path) -> None:
    """So the rule about specials is no formality."""
    base = load_base(str(folders["llama"]), device="cpu")
    artifact, adapter = exported(base, tmp_path)
    inputs = base.tokenizer(PROMPT, return_tensors="pt")
    with torch.no_grad():
        twice = peft_model(base, adapter)(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
        ).logits
    ours = our_logits(base, artifact, base.tokenizer(PROMPT)["input_ids"])
    assert (twice[0, -1] - ours[0, -1]).abs().max() > 0.1


def test_an_export_generates_the_same_text(base: BaseModel, tmp_path: Path) -> None:
    _, adapter = exported(base, tmp_path)
    inputs = base.tokenizer(PROMPT, add_special_tokens=False, return_tensors="pt")
    found = peft_model(base, adapter).generate(
        input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"],
        max_new_tokens=12, do_sample=False,
    )  # fmt: skip
    text = base.tokenizer.decode(found[0], skip_special_tokens=True)
    assert text == generate_text(tmp_path / "artifact", PROMPT, 12, None)


def test_an_export_in_bfloat16(folders: dict[str, Path], tmp_path: Path) -> None:
    base = load_base(str(folders["llama"]), dtype="bfloat16", device="cpu")
    artifact, adapter = exported(base, tmp_path)
    ours = our_logits(base, artifact, base.tokenizer(PROMPT)["input_ids"])
    torch.testing.assert_close(peft_logits(base, adapter), ours, rtol=0.02, atol=0.05)


def test_export_then_import_is_the_identity(base: BaseModel, tmp_path: Path) -> None:
    artifact, adapter = exported(base, tmp_path)
    import_peft(adapter, tmp_path / "again", base.path, None, "float32")
    again = Artifact.load(tmp_path / "again")
    assert np.array_equal(again.latents, artifact.latents)
    assert again.config.strategy.short_name == artifact.config.strategy.short_name == "start3~own"
    assert again.base_model["fingerprint"] == artifact.base_model["fingerprint"]
    assert again.add_special_tokens
    for other in ("bfloat16", "float16"):
        rounded = load_base(base.path, dtype=other, device="cpu")
        restored = to_artifact(to_adapter(artifact, rounded), base)
        assert np.array_equal(restored.latents, artifact.latents)


def trained_by_peft(base: BaseModel, folder: Path) -> Path:
    """An adapter that PEFT itself made and saved."""
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_pretrained(base.path)
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    peft.get_peft_model(model, config).save_pretrained(str(folder))
    return folder


def test_an_import_computes_what_peft_does(base: BaseModel, tmp_path: Path) -> None:
    adapter = trained_by_peft(base, tmp_path / "adapter")
    import_peft(adapter, tmp_path / "artifact", base.path, None, "float32")
    artifact = Artifact.load(tmp_path / "artifact")
    assert artifact.config.strategy.short_name == "start4~own"
    ids = base.tokenizer(PROMPT, add_special_tokens=False)["input_ids"]
    ours = our_logits(base, artifact, ids)
    torch.testing.assert_close(peft_logits(base, adapter), ours, rtol=1e-5, atol=1e-5)
    adds_bos = base.tokenizer(PROMPT)["input_ids"] != ids
    assert artifact.add_special_tokens is not adds_bos
    assert ("without specials" in (tmp_path / "artifact" / CARD_FILE).read_text()) == adds_bos


def test_an_import_generates_what_peft_does(base: BaseModel, tmp_path: Path) -> None:
    adapter = trained_by_peft(base, tmp_path / "adapter")
    import_peft(adapter, tmp_path / "artifact", base.path, None, "float32")
    lm, _ = attach_folder(tmp_path / "artifact", None)
    assert isinstance(lm, LatentLM)
    inputs = base.tokenizer(PROMPT, add_special_tokens=False, return_tensors="pt")
    found = peft_model(base, adapter).generate(
        input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"],
        max_new_tokens=12, do_sample=False,
    )  # fmt: skip
    text = base.tokenizer.decode(found[0], skip_special_tokens=True)
    assert text == generate_text(tmp_path / "artifact", PROMPT, 12, None)


def test_an_import_for_prompts_without_bos_refuses_one(base: BaseModel, tmp_path: Path) -> None:
    adapter = trained_by_peft(base, tmp_path / "adapter")
    import_peft(adapter, tmp_path / "artifact", base.path, None, "float32")
    tokenizer = base.tokenizer
    tokenizer.padding_side = "left"
    lm = LatentTokens.load(tmp_path / "artifact").attach(base.model, tokenizer)
    prompts = [PROMPT, PROMPT[-2:]]  # the second is padded
    bare = tokenizer(prompts, add_special_tokens=False, padding=True, return_tensors="pt")
    lm.generate(**bare, max_new_tokens=2)
    usual = tokenizer(prompts, padding=True, return_tensors="pt")
    if torch.equal(usual["input_ids"], bare["input_ids"]):  # there is no BOS to forget
        lm.generate(**usual, max_new_tokens=2)
        return
    for inputs in (usual, {"input_ids": usual["input_ids"][:1]}):
        with pytest.raises(StrategyError, match="add_special_tokens=False"):
            lm.generate(**inputs, max_new_tokens=2)


def test_import_then_export_is_the_identity(base: BaseModel, tmp_path: Path) -> None:
    adapter = trained_by_peft(base, tmp_path / "adapter")
    import_peft(adapter, tmp_path / "artifact", base.path, None, "float32")
    export_peft(tmp_path / "artifact", tmp_path / "again", None)
    one, other = Adapter.load(adapter), Adapter.load(tmp_path / "again")
    assert torch.equal(one.virtual_VD, other.virtual_VD)
    assert one.config == other.config  # field by field what PEFT writes


def test_the_readme_says_how_to_tokenise(folders: dict[str, Path], tmp_path: Path) -> None:
    for name, words in (("llama", "the embedding of BOS, then"), ("no BOS", "tokens: the latents")):
        base = load_base(str(folders[name]), device="cpu")
        _, adapter = exported(base, tmp_path / name)
        card = (adapter / CARD_FILE).read_text()
        for word in ("add_special_tokens=False", "without specials", words):
            assert word in card


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        (InsertionStrategy(), r"strategy\.triggers has 0 triggers"),
        (start("following"), "strategy.position_rule is `following`, expected `own`"),
        (start("preceding"), "strategy.position_rule is `preceding`"),
        (start(readout="verbal"), r"strategy\.triggers\.s\.readout is `verbal`"),
        (start(kind="end"), r"strategy\.triggers\.s\.kind is `end`"),
        (start(kind="every", k=4), r"strategy\.triggers\.s\.kind is `every`"),
        (
            InsertionStrategy.from_dict(
                {
                    "triggers": {"a": {"kind": "start"}, "b": {"kind": "end"}},
                    "position_rule": "own",
                }
            ),
            r"strategy\.triggers has 2 triggers",
        ),
        (
            InsertionStrategy.from_dict(
                {
                    "triggers": {"s": {"kind": "start"}},
                    "specialization": "cycle",
                    "groups": 2,
                    "position_rule": "own",
                }
            ),
            r"strategy\.specialization is `cycle`",
        ),
    ],
)
def test_other_strategies_are_refused_by_field(
    strategy: InsertionStrategy, words: str, tiny_base: BaseModel, tmp_path: Path
) -> None:
    artifact_of(tiny_base, strategy).save(tmp_path / "artifact")
    with pytest.raises(StrategyError, match=words):
        export_peft(tmp_path / "artifact", tmp_path / "adapter", None)
    assert not (tmp_path / "adapter").exists()


def test_an_adapter_of_another_width_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    wide = load_base(str(folders["llama"]), device="cpu")
    adapter = trained_by_peft(wide, tmp_path / "adapter")
    with pytest.raises(ArtifactError, match=r"token_dim is 32, but the embeddings .* width 16"):
        import_peft(
            adapter,
            tmp_path / "artifact",
            str(folders["gemma"]),
            None,
            "float32",
            renamed_base=True,
        )
    assert not (tmp_path / "artifact").exists()


def test_a_tokenizer_that_adds_more_than_bos_is_refused(tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    ids = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<s>", "</s>")]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A $B </s>", special_tokens=ids
    )
    tiny_llama(tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    base = load_base(str(tmp_path), device="cpu")
    with pytest.raises(BaseModelError, match=r"adds \['<s>', '</s>'\] to a prompt"):
        to_adapter(artifact_of(base, start()), base)


def test_one_virtual_token_that_is_bos_stays_a_latent(tiny_base: BaseModel) -> None:
    bos = torch.tensor([tiny_base.tokenizer.bos_token_id])
    adapter = Adapter(tiny_base.embeddings(bos), {})
    artifact = to_artifact(adapter, tiny_base)
    assert len(artifact.latents) == 1
    assert not artifact.add_special_tokens


def test_what_is_written_is_what_peft_would_write(tiny_base: BaseModel, tmp_path: Path) -> None:
    _, adapter = exported(tiny_base, tmp_path)
    trained = trained_by_peft(tiny_base, tmp_path / "theirs")
    ours, theirs = (json.loads((f / CONFIG_FILE).read_text()) for f in (adapter, trained))
    assert ours == theirs  # 3 latents and BOS; 4 virtual tokens


@pytest.mark.parametrize(
    ("named", "given", "is_same"),
    [
        ("meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.2-1B", True),
        ("meta-llama/Llama-3.2-1B", "models/llama-3.2-1b/", True),  # downloaded into a folder
        ("old/place/mine", "new/and/other/mine", True),
        (
            "meta-llama/Llama-3.2-1B",
            "cache/hub/models--meta-llama--Llama-3.2-1B/snapshots/0123abcd",
            True,
        ),
        (None, "models/mine", True),  # it does not say
        ("", "models/mine", True),
        ("meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.2-1B-Instruct", False),
        ("meta-llama/Llama-3.2-1B", "unsloth/Llama-3.2-1B", False),
        ("meta-llama/Llama-3.2-1B", "bundled", False),
        ("models/one/of/them", "models/another/of/these", False),
    ],
)
def test_which_names_are_of_the_same_base_model(
    named: str | None, given: str, is_same: bool
) -> None:
    adapter = Adapter(torch.zeros(1, 4), {"base_model_name_or_path": named})
    if is_same:
        refuse_other_base(adapter, given)
        return
    with pytest.raises(ArtifactError, match="base_model_name_or_path") as caught:
        refuse_other_base(adapter, given)
    for word in (repr(named), repr(given), "--renamed-base"):
        assert word in str(caught.value)
