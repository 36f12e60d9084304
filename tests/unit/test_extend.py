"""`latentune extend`: a search's own file, with a budget that grew."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from orchestrator import cli
from orchestrator.config import load_search
from orchestrator.files import write_atomic
from tests.unit.ledgers import NAME, search_config, search_folder


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, list[str]]]:
    """What `run` is called with."""
    calls: list[tuple[Path, list[str]]] = []
    monkeypatch.setenv("LATENTUNE_HOME", str(tmp_path))
    monkeypatch.setattr(cli, "run", lambda path, changed: calls.append((path, changed)))
    config = search_config(budget={"trials": 4, "steps": 8, "time_s": 60.0})
    search_folder(tmp_path).path.mkdir(parents=True)
    search_folder(tmp_path).study.touch()
    write_atomic(search_folder(tmp_path).config, config.to_yaml().encode())
    return calls


def test_trials_and_time_are_added(ran: list[tuple[Path, list[str]]], tmp_path: Path) -> None:
    cli.extend(NAME, trials=3, time_s=30.0)
    ((path, changed),) = ran
    assert path == search_folder(tmp_path).config
    grown = load_search(path, changed).budget
    assert (grown.trials, grown.time_s, grown.steps) == (7, 90.0, 8)


def test_time_without_a_limit_cannot_grow(
    ran: list[tuple[Path, list[str]]], tmp_path: Path
) -> None:
    write_atomic(search_folder(tmp_path).config, search_config().to_yaml().encode())
    with pytest.raises(typer.BadParameter, match=r"no budget\.time_s"):
        cli.extend(NAME, time_s=30.0)
    assert ran == []
