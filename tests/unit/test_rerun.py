"""What a search was, in one file; and one of its trials trained again."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from orchestrator import cli
from orchestrator.config import SearchConfig, load_search
from orchestrator.errors import SearchExistsError, SearchNotFoundError
from orchestrator.events import Event, read_events
from orchestrator.folders import SearchFolder
from orchestrator.reproduction import Reproduction, data_digests, describe_search, git_commit
from orchestrator.rerun import Tolerance, rerun_trial
from orchestrator.search_data import read_data
from tests.conftest import MakeFolder
from tests.unit.local_search import NAME, local_config, search_locally
from trainable.artifact import Artifact
from trainable.base_model.loading import BaseModel
from trainable.errors import FingerprintError
from trainable.tasks import build_task


@pytest.fixture(scope="module")
def ran(
    tiny_folder: Path, tiny_base: BaseModel, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, SearchFolder]:
    """Two searches of the same trials: one deterministic, one not."""
    home = tmp_path_factory.mktemp("home")
    exact = local_config(tiny_folder, engine={"deterministic": True})
    folder = search_locally(exact, home, tiny_base)
    search_locally(local_config(tiny_folder, name="fused"), home, tiny_base)
    return home, folder


def test_a_deterministic_trial_comes_out_bit_by_bit(ran: tuple[Path, SearchFolder]) -> None:
    home, folder = ran
    before = {path: path.read_bytes() for path in (folder.study, folder.events)}
    for number in range(3):
        found = rerun_trial(home, NAME, number)
        assert (found.bit_equal, found.within, found.score_difference) == (True, True, 0.0)
        assert found.tolerance == Tolerance(latents=0, scores=0)
        assert found.scores["val_ood/nll"].recorded == found.scores["val_ood/nll"].again
    assert {path: path.read_bytes() for path in before} == before
    assert not torch.are_deterministic_algorithms_enabled()
    written = folder.path / "reruns" / f"{NAME}-2"
    assert json.loads((written / "rerun.json").read_text())["trial_uid"] == f"{NAME}-2"
    again = Artifact.load(written / "latents")
    assert np.array_equal(again.latents, Artifact.load(folder.artifact(f"{NAME}-2")).latents)


def test_a_trial_that_shared_its_forwards_is_the_same_but_for_rounding(
    ran: tuple[Path, SearchFolder],
) -> None:
    found = rerun_trial(ran[0], "fused", 1)
    assert found.within
    assert found.latents_difference < 1e-4
    assert found.notes == []


def test_one_that_differs_is_told(
    ran: tuple[Path, SearchFolder],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    home = tmp_path / "home"
    shutil.copytree(ran[0], home)
    path = SearchFolder.of(home, NAME).artifact(f"{NAME}-1")
    one = Artifact.load(path)
    one.latents[0, 0] += np.float32(1e-6)
    one.save(path)
    monkeypatch.setenv("LATENTUNE_HOME", str(home))
    assert call(monkeypatch, NAME, "--trial", "1") == 1
    assert "NOT the same" in capsys.readouterr().out
    assert call(monkeypatch, NAME, "--trial", "1", "--latents-tolerance", "0.01", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["within"], found["bit_equal"], found["schema_version"]) == (True, False, 1)


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Any:
    monkeypatch.setattr("sys.argv", ["latentune", "rerun", *arguments])
    with pytest.raises(SystemExit) as done:
        cli.main()
    return done.value.code


def test_what_cannot_be_rerun(
    ran: tuple[Path, SearchFolder], make_folder: MakeFolder, tmp_path: Path
) -> None:
    home, folder = ran
    with pytest.raises(SearchNotFoundError, match=r"--trial 9 .*trials that have: 0, 1, 2"):
        rerun_trial(home, NAME, 9)
    moved = tmp_path / "home"
    shutil.copytree(home, moved)
    config = load_search(folder.config)
    other = config.base_model.model_copy(update={"path": str(make_folder(seed=3))})
    text = SearchConfig.model_validate(config.model_dump() | {"base_model": other.model_dump()})
    SearchFolder.of(moved, NAME).config.write_text(text.to_yaml())
    with pytest.raises(FingerprintError, match="another model compares nothing"):
        rerun_trial(moved, NAME, 0)


def test_rows_that_changed_are_refused(
    tiny_folder: Path, tiny_base: BaseModel, tmp_path: Path
) -> None:
    rows = [json.dumps({"prompt": f"{i}=", "completion": str(i)}) for i in range(12)]
    (tmp_path / "train.jsonl").write_text("\n".join(rows[4:]))
    (tmp_path / "val.jsonl").write_text("\n".join(rows[:4]))
    task = {"kind": "records", "train": str(tmp_path / "train.jsonl")}
    task |= {"val_id": str(tmp_path / "val.jsonl")}
    stopping = {"kind": "none"}
    config = local_config(
        tiny_folder, task=task, stopping=stopping, budget={"trials": 1, "steps": 2}
    )
    search_locally(config, tmp_path / "home", tiny_base)
    assert rerun_trial(tmp_path / "home", NAME, 0).within
    (tmp_path / "val.jsonl").write_text("\n".join(rows[:3]))
    with pytest.raises(SearchExistsError, match=r"the rows of search 'local' have changed"):
        rerun_trial(tmp_path / "home", NAME, 0)


def test_what_a_search_was(ran: tuple[Path, SearchFolder]) -> None:
    _, folder = ran
    found = Reproduction.model_validate_json(folder.reproduction.read_text())
    assert [ask.number for ask in found.asks] == [0, 1, 2]
    assert [ask.after_reports for ask in found.asks] == [0, 0, 0]
    assert found.asks[1].params == {"strategy.arm": "comma"}
    assert found.seeds == {"data.seed": 0, "sampler.seed": 0}
    assert set(found.data) == {"train", "val_id", "val_ood", "test_id", "test_ood"}
    assert {"torch", "ray", "optuna", "mlflow", "latentune"} <= set(found.versions)
    assert found.threads == 1
    assert "tracking" not in found.config


def test_the_digest_of_rows_is_theirs(tiny_folder: Path, tmp_path: Path) -> None:
    config = local_config(tiny_folder)
    data = read_data(config, tmp_path)
    again = data_digests(data.source, build_task(data.source.task, seed=0))
    assert again == data.digests
    other = data_digests(data.source, build_task(data.source.task, seed=1))
    assert other["train"] != again["train"]


def test_the_commit_of_a_checkout(tmp_path: Path) -> None:
    assert git_commit(tmp_path) is None

    def git(*arguments: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *who, *arguments],  # noqa: S607
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout.strip()

    git("init", "--quiet")
    (tmp_path / "a").write_text("a")
    git("add", "a")
    git("commit", "--quiet", "-m", "a")
    found = git_commit(tmp_path)
    assert found is not None
    assert (found.commit, found.changed) == (git("rev-parse", "HEAD"), False)
    (tmp_path / "b").write_text("b")
    changed = git_commit(tmp_path)
    assert changed is not None
    assert changed.changed


def test_the_members_of_a_confirmation_are_no_asks(ran: tuple[Path, SearchFolder]) -> None:
    events = list(read_events(ran[1].events))
    before = describe_search(events, {}, threads=1)
    member: dict[str, Any] = {"trial_uid": f"{NAME}-confirm-1", "attempt": 1, "time": 1.0}
    told = [
        Event(seq=len(events), type="trial_started", payload={"stage": "confirm"}, **member),
        Event(seq=len(events) + 1, type="trial_report", payload={"step": 1}, **member),
    ]
    first = [event for event in events if event.type == "search_started"]
    again = describe_search([*first, *told, *events], {}, threads=1)
    assert again.asks == before.asks
