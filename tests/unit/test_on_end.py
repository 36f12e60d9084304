"""The command at a search's end: told by its environment, without a shell, and never fatal."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from orchestrator.config import SearchConfig
from orchestrator.service import on_end
from orchestrator.service.on_end import LOG_NAME, tell_end

WRITE = (
    "import json, os, sys; keys = ('SEARCH', 'STATE', 'RESULT');"
    "told = [os.environ['LATENTUNE_' + key] for key in keys];"
    "json.dump([told, sys.argv[1:], os.getcwd()], open('told.json', 'w')); print('done')"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "secret-rule"
    path.mkdir()
    return path


def test_it_is_told_name_state_and_result(folder: Path) -> None:
    assert tell_end([sys.executable, "-c", WRITE, "$HOME; ls"], folder, "complete")
    told, arguments, where = json.loads((folder / "told.json").read_text())
    assert told == ["secret-rule", "complete", str(folder / "result.json")]
    assert arguments == ["$HOME; ls"], "no shell has read it"
    assert Path(where) == folder
    assert (folder / LOG_NAME).read_text() == "done\n"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ([sys.executable, "-c", "raise SystemExit(3)"], "ended with 3"),
        (["/nowhere/at-all"], "did not run to its end"),
        ([sys.executable, "-c", "import time; time.sleep(60)"], "did not run to its end"),
    ],
)
def test_it_cannot_fail_the_search(
    folder: Path,
    command: list[str],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(on_end, "TIMEOUT_S", 1.0)
    assert not tell_end(command, folder, "failed")
    assert words in caplog.text


def test_a_log_that_cannot_be_written_keeps_nobody_from_being_told(folder: Path) -> None:
    """The disk is full, which is what a person wants to know."""
    (folder / LOG_NAME).mkdir()
    assert tell_end([sys.executable, "-c", WRITE], folder, "interrupted")
    assert json.loads((folder / "told.json").read_text())[0][1] == "interrupted"


def test_without_one_nothing_runs(folder: Path) -> None:
    assert tell_end((), folder, "complete")
    assert list(folder.iterdir()) == []


def test_it_is_a_list_of_words() -> None:
    """One string would need a shell to cut it."""
    known = {"name": "x", "task": {"kind": "generation"}, "space": {"preset": "quick"}}
    good = {**known, "budget": {"trials": 1}, "tracking": {"on_end": ["notify", "me"]}}
    assert SearchConfig.model_validate(good).tracking.on_end == ("notify", "me")
    with pytest.raises(ValueError, match="on_end"):
        SearchConfig.model_validate({**good, "tracking": {"on_end": "notify me"}})
