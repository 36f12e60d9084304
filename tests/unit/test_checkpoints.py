"""Saved states: whole or absent, the newest two kept."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.checkpoints import KEPT, load_state, save_state, state_path


def steps(folder: Path) -> list[int]:
    return sorted(int(path.stem) for path in folder.glob("*.safetensors"))


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    path = save_state(tmp_path / "new" / "uid", 60, b"sixty")
    assert path == state_path(tmp_path / "new" / "uid", 60)
    assert load_state(tmp_path / "new" / "uid", 60) == b"sixty"


def test_a_step_without_a_state_starts_from_the_init(tmp_path: Path) -> None:
    save_state(tmp_path, 60, b"sixty")
    assert load_state(tmp_path, 61) is None
    assert load_state(tmp_path, 0) is None
    assert load_state(tmp_path / "nowhere", 60) is None


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    for step in (9, 60, 180, 100_000):  # names sort by step, whatever their digits
        save_state(tmp_path, step, str(step).encode())
    assert steps(tmp_path) == [180, 100_000]
    assert KEPT == 2


def test_what_was_just_saved_is_never_the_one_that_goes(tmp_path: Path) -> None:
    """A trial that was set back saves below the states that its lost attempt left."""
    for step in (180, 540, 60):
        save_state(tmp_path, step, str(step).encode())
    assert load_state(tmp_path, 60) == b"60"
    assert len(steps(tmp_path)) == KEPT


def test_a_state_replaces_the_one_of_the_same_step(tmp_path: Path) -> None:
    for text in (b"first", b"second"):
        save_state(tmp_path, 60, text)
    assert load_state(tmp_path, 60) == b"second"
    assert [path.name for path in tmp_path.iterdir()] == ["00000060.safetensors"]


def test_a_write_that_broke_off_leaves_the_earlier_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_state(tmp_path, 60, b"whole")

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    for step in (60, 180):
        with pytest.raises(OSError, match="No space"):
            save_state(tmp_path, step, b"half")
    assert load_state(tmp_path, 60) == b"whole"
    assert load_state(tmp_path, 180) is None
