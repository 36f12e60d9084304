"""A trial's saved states: one file per report, `STEP.safetensors`, written atomically.

Knows no torch: a state is bytes here. The two saved last are kept, because a driver can die
between a trial's saving and the ledger's learning of it.
"""

from __future__ import annotations

from pathlib import Path

from orchestrator.files import write_atomic

KEPT = 2


def save_state(folder: Path, step: int, state: bytes) -> Path:
    """Write a state; it appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    path = state_path(folder, step)
    write_atomic(path, state)
    others = [other for other in folder.glob("*.safetensors") if other != path]
    # By time: a trial that was set back saves below the steps that its lost attempt reached.
    for old in sorted(others, key=lambda other: other.stat().st_mtime_ns)[: 1 - KEPT]:
        old.unlink()
    return path


def load_state(folder: Path, step: int) -> bytes | None:
    """The state saved at `step`, or None if there is none: the trial then starts from its init."""
    path = state_path(folder, step)
    return path.read_bytes() if step > 0 and path.exists() else None


def state_path(folder: Path, step: int) -> Path:
    """Where the state at `step` is saved; names sort by step."""
    return folder / f"{step:08d}.safetensors"
