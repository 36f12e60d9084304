"""Saved states: whole or absent, the newest two kept, damaged ones never used."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.checkpoints import (
    KEPT,
    find_state,
    last_step,
    load_state,
    save_state,
    set_aside,
    state_path,
)
from trainable.errors import DiskFullError


def steps(folder: Path) -> list[int]:
    return sorted(int(path.stem.split("-")[0]) for path in folder.glob("*.safetensors"))


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    path = save_state(tmp_path / "new" / "uid", 60, b"sixty")
    assert path == state_path(tmp_path / "new" / "uid", 60)
    assert load_state(tmp_path / "new" / "uid", 60) == b"sixty"


def test_a_step_without_a_state_starts_from_the_init(tmp_path: Path) -> None:
    save_state(tmp_path, 60, b"sixty")
    assert load_state(tmp_path, 61) is None
    assert load_state(tmp_path, 0) is None
    assert load_state(tmp_path / "nowhere", 60) is None
    assert not find_state(tmp_path, 0).problems


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    for step in (9, 60, 180, 100_000):  # names sort by step, whatever their digits
        save_state(tmp_path, step, str(step).encode())
    assert steps(tmp_path) == [180, 100_000]
    assert KEPT == 2
    assert last_step(tmp_path) == 100_000


def test_what_was_just_saved_is_never_the_one_that_goes(tmp_path: Path) -> None:
    """A trial that was set back saves below the states that its lost attempt left."""
    for step in (180, 540, 60):
        save_state(tmp_path, step, str(step).encode())
    assert load_state(tmp_path, 60) == b"60"
    assert len(steps(tmp_path)) == KEPT


def test_a_state_replaces_the_one_of_the_same_step(tmp_path: Path) -> None:
    save_state(tmp_path, 20, b"twenty")
    for text in (b"first", b"second"):
        save_state(tmp_path, 60, text)
    assert load_state(tmp_path, 60) == b"second"
    assert steps(tmp_path) == [20, 60]


def test_a_write_that_broke_off_leaves_the_earlier_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_state(tmp_path, 60, b"whole")

    def full_disk(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    for step in (60, 180):
        with pytest.raises(DiskFullError, match=rf"disk full: .*{step:08d}-.*cannot be written"):
            save_state(tmp_path, step, b"half")
    assert load_state(tmp_path, 60) == b"whole"
    assert load_state(tmp_path, 180) is None
    assert len(list(tmp_path.iterdir())) == 1


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 8
    path.write_bytes(bytes(data))


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [zeros, flipped, truncated, empty, Path.unlink])
def test_damage_leads_to_the_state_before_and_then_to_the_init(
    tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    save_state(tmp_path, 60, b"the state at sixty")
    damage(save_state(tmp_path, 180, b"the state at one hundred and eighty"))
    with caplog.at_level(logging.WARNING):
        found = find_state(tmp_path, 180)
    assert (found.step, found.state) == (60, b"the state at sixty")
    (problem,) = found.problems
    assert "180" in problem
    if damage is not Path.unlink:
        assert "set aside as 00000180-" in caplog.text
        assert len(list(tmp_path.glob("*.damaged"))) == 1
    assert load_state(tmp_path, 180) is None
    damage(state_path(tmp_path, 60))
    found = find_state(tmp_path, 60)
    assert (found.step, found.state) == (0, None)
    assert "60" in found.problems[0]


def test_states_beyond_the_step_are_not_looked_at(tmp_path: Path) -> None:
    save_state(tmp_path, 60, b"sixty")
    zeros(save_state(tmp_path, 180, b"of a lost attempt"))
    assert find_state(tmp_path, 60).problems == ()
    assert last_step(tmp_path) == 60  # looks at all


def test_what_was_set_aside_is_not_found_again(tmp_path: Path) -> None:
    save_state(tmp_path, 60, b"sixty")
    set_aside(save_state(tmp_path, 180, b"of another shape"), "it has another shape")
    assert find_state(tmp_path, 180).step == 60


def test_a_state_of_an_earlier_release_is_read(tmp_path: Path) -> None:
    (tmp_path / "00000060.safetensors").write_bytes(b"sixty")
    assert load_state(tmp_path, 60) == b"sixty"
