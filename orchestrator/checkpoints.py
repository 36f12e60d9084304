"""A trial's saved states: one file per report, `STEP.safetensors`, written atomically.

Knows no torch: a state is bytes here. The newest two are kept, because a driver can die
between a trial's saving and the ledger's learning of it.
"""

from __future__ import annotations

import os
from pathlib import Path

KEPT = 2


def save_state(folder: Path, step: int, state: bytes) -> Path:
    """Write a state; it appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    path = state_path(folder, step)
    scratch = path.with_suffix(f".{os.getpid()}.tmp")
    with scratch.open("wb") as file:
        file.write(state)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)
    for old in sorted(folder.glob("*.safetensors"))[:-KEPT]:
        old.unlink()
    return path


def load_state(folder: Path, step: int) -> bytes | None:
    """The state saved at `step`, or None if there is none: the trial then starts from its init."""
    path = state_path(folder, step)
    return path.read_bytes() if step > 0 and path.exists() else None


def state_path(folder: Path, step: int) -> Path:
    """Where the state at `step` is saved; names sort by step."""
    return folder / f"{step:08d}.safetensors"
