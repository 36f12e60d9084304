"""`latentune export` and `latentune import`: what they write, and their exit codes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from orchestrator.cli import main
from tests.decoding_reference import artifact_of
from trainable.artifact import Artifact
from trainable.base_model.loading import BaseModel
from trainable.strategy import InsertionStrategy

Call = Callable[..., tuple[int, str]]


def start(position_rule: str) -> InsertionStrategy:
    return InsertionStrategy.from_dict(
        {"triggers": {"s": {"kind": "start", "m": 2}}, "position_rule": position_rule}
    )


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run the command line in this process; exit code and what was printed."""

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["latentune", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        code = caught.value.code
        assert isinstance(code, int)
        return code, out + err

    return run


def test_there_and_back(call: Call, tiny_base: BaseModel, tmp_path: Path) -> None:
    artifact = artifact_of(tiny_base, start("own"))
    artifact.save(tmp_path / "a")
    code, said = call("export", tmp_path / "a", "--format", "peft", "--to", tmp_path / "b")
    assert code == 0, said
    assert "without specials" in said
    base_model = ["--base-model", tiny_base.path]
    code, said = call("import", tmp_path / "b", *base_model, "--to", tmp_path / "c")
    assert code == 0, said
    again = Artifact.load(tmp_path / "c")
    assert np.array_equal(again.latents, artifact.latents)
    code, said = call("generate", tmp_path / "c", "44@47=", "--max-new-tokens", 4)
    assert code == 0, said
    assert "44@47=" in said


def test_what_peft_has_no_place_for_is_bad_input(
    call: Call, tiny_base: BaseModel, tmp_path: Path
) -> None:
    artifact_of(tiny_base, start("following")).save(tmp_path / "a")
    code, said = call("export", tmp_path / "a", "--to", tmp_path / "b")
    assert code == 2
    assert "strategy.position_rule is `following`" in said
    assert not (tmp_path / "b").exists()


def test_a_folder_that_holds_something_is_left_alone(
    call: Call, tiny_base: BaseModel, tmp_path: Path
) -> None:
    artifact_of(tiny_base, start("own")).save(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine").write_text("mine")
    for arguments in (
        ["export", tmp_path / "a", "--to", tmp_path / "b"],
        ["import", tmp_path / "a", "--base-model", tiny_base.path, "--to", tmp_path / "b"],
    ):
        code, said = call(*arguments)
        assert code == 2
        assert "is already there" in said
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["mine"]


def test_another_base_model_is_bad_input(
    call: Call, tiny_base: BaseModel, make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    artifact_of(tiny_base, start("own")).save(tmp_path / "a")
    other = make_folder(seed=1)
    code, said = call("export", tmp_path / "a", "--to", tmp_path / "b", "--base-model", other)
    assert code == 2
    assert "belong to the base model" in said


def test_an_adapter_of_another_base_is_bad_input(
    call: Call, tiny_base: BaseModel, make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    artifact_of(tiny_base, start("own")).save(tmp_path / "a")
    assert call("export", tmp_path / "a", "--to", tmp_path / "b")[0] == 0
    other, to = make_folder(seed=1), tmp_path / "c"
    arguments = ["import", tmp_path / "b", "--base-model", other, "--to", to]
    code, said = call(*arguments)
    assert code == 2
    for word in (tiny_base.path, str(other), "base_model_name_or_path", "--renamed-base"):
        assert word in said
    assert not to.exists()
    code, said = call(*arguments, "--renamed-base")
    assert code == 0, said
    assert Artifact.load(to).provenance["adapter_base_model"] == tiny_base.path


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["export", "nowhere", "--to", "there"], "no artifact folder"),
        (["import", "nowhere", "--base-model", "bundled", "--to", "there"], "no PEFT adapter"),
        (["export", "nowhere", "--to", "there", "--format", "gguf"], "gguf"),
        (["import", "nowhere", "--to", "there"], "--base-model"),
    ],
)
def test_bad_input(
    call: Call, arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = call(*arguments)
    assert code == 2
    assert words in said
    assert not list(tmp_path.iterdir())
