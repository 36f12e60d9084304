"""Artifact folders: written whole, read back exactly, refused when they cannot be trusted."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from trainable import artifact as artifact_module
from trainable import whole_folder as whole_folder_module
from trainable.artifact import (
    CARD_FILE,
    CONFIG_FILE,
    FILES,
    LATENTS_FILE,
    Artifact,
    describe_strategy,
    model_card,
)
from trainable.errors import ArtifactError
from trainable.trial import TrialConfig

CONFIG = TrialConfig.from_dict(
    {
        "strategy": {
            "triggers": {
                "start": {"kind": "start", "m": 2},
                "comma": {"kind": "delimiter", "m": 1},
            },
            "specialization": "by_trigger",
        },
        "seed": 5,
    }
)


def some_artifact(scale: float = 1.0) -> Artifact:
    values = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    return Artifact(
        latents=scale * values,
        config=CONFIG,
        base_model={"path": "bundled", "fingerprint": "f" * 64},
        task={"kind": "generation", "seed": 0},
        metrics={"val_ood/exact_match": 0.25, "train/loss": None},
        provenance={"search": "quickstart", "trial_uid": "quickstart-7", "step": 540},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    some_artifact().save(tmp_path / "artifact")
    return tmp_path / "artifact"


def edit_config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / CONFIG_FILE
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def test_round_trip(folder: Path) -> None:
    given, again = some_artifact(), Artifact.load(folder)
    assert np.array_equal(again.latents, given.latents)
    assert again.latents.dtype == np.float32
    for name in ("config", "base_model", "task", "metrics", "provenance"):
        assert getattr(again, name) == getattr(given, name)


def test_the_folder_holds_three_files_and_nothing_stays_beside_it(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert [path.name for path in folder.parent.iterdir()] == ["artifact"]
    config = json.loads((folder / CONFIG_FILE).read_text())
    assert config["format_version"] == 1
    assert config["latent_shape"] == [3, 4]
    assert config["group_sizes"] == [2, 1]
    assert set(load_file(folder / LATENTS_FILE)) == {"latents"}


def test_latents_of_a_view_are_written_whole(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32).T
    Artifact(latents=values, config=CONFIG, base_model={}).save(tmp_path / "a")
    assert np.array_equal(Artifact.load(tmp_path / "a").latents, values)


def test_no_latents_is_an_artifact_too(tmp_path: Path) -> None:
    Artifact(latents=np.zeros((0, 4), np.float32), config=TrialConfig(), base_model={}).save(
        tmp_path / "none"
    )
    assert Artifact.load(tmp_path / "none").latents.shape == (0, 4)


def test_saving_replaces_an_earlier_folder_whole(folder: Path) -> None:
    (folder / "stray").write_text("from before")
    some_artifact(scale=2.0).save(folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert np.array_equal(Artifact.load(folder).latents, some_artifact(scale=2.0).latents)


@pytest.mark.parametrize(
    ("module", "failing"),
    [
        (artifact_module, "model_card"),
        (artifact_module, "save_file"),
        (whole_folder_module, "flush"),
    ],
)
def test_a_save_that_fails_leaves_the_earlier_folder(
    folder: Path, module: ModuleType, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(module, failing, fail)
    with pytest.raises(OSError, match="no space"):
        some_artifact(scale=2.0).save(folder)
    assert np.array_equal(Artifact.load(folder).latents, some_artifact().latents)
    assert [path.name for path in folder.parent.iterdir()] == ["artifact"]


def test_a_rename_that_fails_leaves_the_earlier_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def fail_onto_the_folder(self: Path, target: Path) -> Path:
        if Path(target) == folder and CONFIG_FILE in os.listdir(self):
            monkeypatch.setattr(Path, "rename", rename)
            raise OSError("cut off")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_onto_the_folder)
    with pytest.raises(OSError, match="cut off"):
        some_artifact(scale=2.0).save(folder)
    assert np.array_equal(Artifact.load(folder).latents, some_artifact().latents)


@pytest.mark.parametrize("name", [CONFIG_FILE, LATENTS_FILE])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=f"no artifact folder: it has no {name}"):
        Artifact.load(folder)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="nowhere"):
        Artifact.load(tmp_path / "nowhere")


def test_the_card_is_not_needed(folder: Path) -> None:
    (folder / CARD_FILE).unlink()
    Artifact.load(folder)


@pytest.mark.parametrize("name", [CONFIG_FILE, LATENTS_FILE])
@pytest.mark.parametrize("cut", [0, 20, -1])
def test_a_cut_file_is_damaged(folder: Path, name: str, cut: int) -> None:
    path = folder / name
    content = path.read_bytes().rstrip()
    path.write_bytes(content[:cut])
    with pytest.raises(ArtifactError, match=r"is damaged: .*pull it again"):
        Artifact.load(folder)


def test_a_config_that_is_no_text_is_damaged(folder: Path) -> None:
    (folder / CONFIG_FILE).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ArtifactError, match="is damaged"):
        Artifact.load(folder)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_format_version_is_refused(folder: Path, version: object) -> None:
    edit_config(folder, lambda config: config.update(format_version=version))
    with pytest.raises(ArtifactError, match=r"format version .*this release reads 1"):
        Artifact.load(folder)


def test_a_config_that_is_no_mapping_is_refused(folder: Path) -> None:
    (folder / CONFIG_FILE).write_text("[1]")
    with pytest.raises(ArtifactError, match="must hold a mapping, got list"):
        Artifact.load(folder)


@pytest.mark.parametrize("key", ["trial", "base_model", "metrics", "task", "provenance"])
def test_a_missing_key_is_named(folder: Path, key: str) -> None:
    edit_config(folder, lambda config: config.pop(key))
    with pytest.raises(ArtifactError, match=f"incomplete or wrong: .*{key}"):
        Artifact.load(folder)


@pytest.mark.parametrize("key", ["base_model", "metrics", "task", "provenance"])
def test_a_key_of_another_type_is_named(folder: Path, key: str) -> None:
    edit_config(folder, lambda config: config.update({key: [1]}))
    with pytest.raises(ArtifactError, match=f"incomplete or wrong: .*{key}"):
        Artifact.load(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["trial"]["strategy"]["triggers"]["start"].update(m=3), "expected .4, D."),
        (lambda c: c["trial"]["strategy"]["triggers"]["start"].update(k=3), "k=3"),
        (lambda c: c["trial"]["strategy"].update(colour="red"), "strategy.colour"),
        (lambda c: c["trial"]["optim"].update(lr=-1), "optim.lr=-1"),
        (lambda c: c.update(trial=7), "mapping"),
        (lambda c: c.update(latent_shape=[3, 5]), "latent_shape"),
        (lambda c: c.update(group_sizes=[1, 2]), "group_sizes"),
    ],
)
def test_a_config_that_contradicts_the_latents_is_refused(
    folder: Path, change: Callable[[dict[str, Any]], object], words: str
) -> None:
    edit_config(folder, change)
    with pytest.raises(ArtifactError, match=words):
        Artifact.load(folder)


@pytest.mark.parametrize(
    "tensors",
    [
        {"latents": np.zeros((3, 4), np.float32), "more": np.zeros(1, np.float32)},
        {"weights": np.zeros((3, 4), np.float32)},
        {},
    ],
)
def test_other_tensors_are_refused(folder: Path, tensors: dict[str, Any]) -> None:
    save_file(tensors, folder / LATENTS_FILE)
    with pytest.raises(ArtifactError, match="`latents` alone"):
        Artifact.load(folder)


@pytest.mark.parametrize(
    "latents",
    [
        np.full((3, 4), np.nan, np.float32),
        np.full((3, 4), np.inf, np.float32),
        np.zeros((3, 4), np.float64),
        np.zeros((3, 4), np.int32),
        np.zeros((2, 4), np.float32),
        np.zeros((12,), np.float32),
    ],
)
def test_other_latents_are_refused(folder: Path, latents: Any) -> None:
    with pytest.raises(ArtifactError, match="latents"):
        Artifact(latents=latents, config=CONFIG, base_model={})
    save_file({"latents": latents}, folder / LATENTS_FILE)
    with pytest.raises(ArtifactError, match="latents"):
        Artifact.load(folder)


def test_nothing_is_ever_unpickled(folder: Path) -> None:
    (folder / "latents.bin").write_bytes(b"\x80\x04N.")
    with pytest.raises(ArtifactError, match=r"latents\.bin is a pickle, or named as one"):
        Artifact.load(folder)


def test_the_card_is_written_from_the_numbers() -> None:
    card = model_card(some_artifact())
    for words in ("start2+comma1~by_trigger", "quickstart-7", "| val_ood/exact_match | 0.25 |"):
        assert words in card
    assert "| train/loss | not finite |" in card
    assert "f" * 64 in card
    assert "candidate" in card


def test_the_strategy_in_words() -> None:
    assert describe_strategy(CONFIG) == (
        "2 latent tokens at the start of the query, and 1 latent token before each token that "
        "matches `,`. Each trigger has its own group."
    )
    assert describe_strategy(TrialConfig()) == "No latent tokens: the frozen model as it is."


@pytest.mark.parametrize(
    "task", [{}, {"data_seed": "0"}, {"data_seed": None}, {"data_seed": True}, {"data_seed": -1}]
)
def test_a_data_seed_that_is_none_is_an_artifact_error(task: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError, match=r"task\.data_seed=.*whole number"):
        _ = replace(some_artifact(), task=task).data_seed
    assert replace(some_artifact(), task={"data_seed": 3}).data_seed == 3


def test_the_card_says_which_space_and_what_was_changed_for_memory() -> None:
    base_model = {
        "latent_space": "inputs_embeds",
        "embedding_scale": 8.0,
        "block_input_scale": None,
        "quantization": "bitsandbytes-4bit",
        "trust_remote_code": True,
        "revision": "ab" * 20,
    }
    card = model_card(replace(some_artifact(), base_model=base_model))
    assert "rows of inputs_embeds, which the embeddings scale by 8; the first block sees " in card
    assert "times no one factor" in card
    assert "quantised: bitsandbytes-4bit" in card
    assert "runs code of its own" in card
    assert "ab" * 20 in card
    plain = model_card(some_artifact())
    for word in ("quantised", "code of its own", "without specials", "Imported"):
        assert word not in plain


def test_the_card_of_an_import_claims_no_scores() -> None:
    provenance = {"imported_from": "a PEFT prompt-tuning adapter", "add_special_tokens": False}
    artifact = replace(some_artifact(), provenance=provenance, metrics={})
    card = model_card(artifact)
    assert not artifact.add_special_tokens
    assert "Imported from a PEFT prompt-tuning adapter" in card
    assert "without specials" in card
    assert "LatentTokens.load" in card
    for word in ("Trained", "What it reached", "candidate", "optimiser steps", "pull("):
        assert word not in card


def test_a_bit_that_flips_anywhere_is_found(folder: Path) -> None:
    """Whatever the files' own formats let pass: a digit of a score, a bit of a latent."""
    before = Artifact.load(folder)
    for name in (LATENTS_FILE, CONFIG_FILE):
        path = folder / name
        content = path.read_bytes()
        for at in range(0, len(content), 7):
            changed = bytearray(content)
            changed[at] ^= 1
            path.write_bytes(bytes(changed))
            try:
                again = Artifact.load(folder)
            except ArtifactError:
                continue
            assert again == replace(before, latents=again.latents), at  # white space, or the sums
            assert np.array_equal(again.latents, before.latents), at
        path.write_bytes(content)


def test_an_artifact_of_before_digests_is_read(folder: Path) -> None:
    edit_config(folder, lambda config: config.pop("sha256"))
    Artifact.load(folder)


def test_a_folder_that_was_lost_between_two_renames_comes_back(folder: Path) -> None:
    folder.rename(folder.with_name(f".{folder.name}.abc.earlier"))
    with pytest.raises(OSError, match="cut off"), whole_folder_module.whole_folder(folder):
        raise OSError("cut off")
    assert np.array_equal(Artifact.load(folder).latents, some_artifact().latents)
