"""A trial's saved states: one file per report, its digest in its name, written atomically.

    trials/UID/00000060-3f2a….safetensors      STEP-SHA256
               00000180-91c0….safetensors
               00000180-91c0….damaged          read, found wanting, set aside

Knows no torch: a state is bytes here. The two saved last are kept, because a driver can die
between a trial's saving and the ledger's learning of it, and because a disk can damage one: what
is read is checked, and a trial goes on from the last sound state, or from its init.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

from orchestrator.files import write_atomic

logger = logging.getLogger(__name__)

KEPT = 2
_SUFFIX, _ASIDE = ".safetensors", ".damaged"
_FOREIGN = 10**9  # the "step" of a file that is none of ours


@dataclass(frozen=True)
class Found:
    """Where a trial goes on from.

    Args:
        step: of the state; 0 for the init.
        state: its bytes; None for the init.
        path: its file.
        problems: why this is not the state that was asked for, one line each; empty if it is.
    """

    step: int = 0
    state: bytes | None = None
    path: Path | None = None
    problems: tuple[str, ...] = ()


def save_state(folder: Path, step: int, state: bytes) -> Path:
    """Write a state; it appears whole or not at all.

    Raises:
        DiskFullError: where there is no space; the earlier states are still there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{step:08d}-{hashlib.sha256(state).hexdigest()}{_SUFFIX}"
    write_atomic(path, state)
    others = [other for other in folder.glob(f"*{_SUFFIX}") if other != path]
    replaced = [other for other in others if _step(other) == step]
    # By time: a trial that was set back saves below the steps that its lost attempt reached.
    older = sorted(set(others) - set(replaced), key=_saved_at)[: 1 - KEPT]
    for old in (*replaced, *older):
        old.unlink(missing_ok=True)
    return path


def load_state(folder: Path, step: int) -> bytes | None:
    """The sound state saved at `step`, or None if there is none."""
    found = find_state(folder, step)
    return found.state if found.step == step else None


def find_state(folder: Path, step: int) -> Found:
    """The last sound state up to `step`; what is damaged is set aside, and said."""
    problems: list[str] = []
    paths = [path for path in folder.glob(f"*{_SUFFIX}") if _step(path) <= step]
    if step > 0 and not any(_step(path) == step for path in paths):
        problems.append(f"the state saved at step {step} is missing")
    for path in sorted(paths, key=lambda path: (_step(path), _saved_at(path)), reverse=True):
        state = path.read_bytes()
        problem = _problem(path, state)
        if problem is None:
            return Found(_step(path), state, path, tuple(problems))
        problems.append(problem)
        set_aside(path, problem)
    return Found(problems=tuple(problems))


def set_aside(path: Path, problem: str) -> None:
    """Keep a state that cannot be used from being found again; its file stays for a look at it."""
    logger.warning("%s; set aside as %s", problem, path.with_suffix(_ASIDE).name)
    path.replace(path.with_suffix(_ASIDE))


def last_step(folder: Path) -> int:
    """The step of the last sound state; 0 without one."""
    steps = [step for path in folder.glob(f"*{_SUFFIX}") if (step := _step(path)) < _FOREIGN]
    return find_state(folder, max(steps, default=0)).step


def state_path(folder: Path, step: int) -> Path:
    """The file of the state at `step`; names sort by step."""
    saved = [path for path in folder.glob(f"{step:08d}*{_SUFFIX}") if _step(path) == step]
    return max(saved, key=_saved_at, default=folder / f"{step:08d}{_SUFFIX}")


def _problem(path: Path, state: bytes) -> str | None:
    """Why bytes are not what was saved, or None."""
    expected = path.stem.partition("-")[2]
    if not state:
        return f"the saved state {path} is empty"
    if expected and hashlib.sha256(state).hexdigest() != expected:
        return f"the saved state {path} is damaged: its SHA-256 is not the one in its name"
    return None


def _step(path: Path) -> int:
    """The step in a name; beyond all for a foreign file."""
    digits = path.stem.partition("-")[0]
    return int(digits) if digits.isdecimal() else _FOREIGN


def _saved_at(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:  # another process has set it aside
        return 0
