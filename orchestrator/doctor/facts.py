"""What a machine says of itself: looked up where it runs, judged elsewhere."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from orchestrator.engines.handshake import own_versions
from trainable.errors import LatentuneError

_SIDE = 256  # of the matrices that a GPU multiplies


@dataclass(frozen=True, kw_only=True)
class Facts:
    """One machine.

    Args:
        name: for people.
        versions: what it runs.
        time: its clock when asked, in seconds since 1970.
        folders: path to why it cannot be written; None where it can.
        free_bytes: of the disk that the first folder is on.
        gpus: that torch sees.
        gpu_error: how far the product of two matrices on a GPU was off, relative to the CPU's;
            None where none was made.
        gpu_problem: why none could be made.
        model: why the base model cannot be used; None where it can.
    """

    name: str
    versions: dict[str, str]
    time: float
    folders: dict[str, str | None] = field(default_factory=dict)
    free_bytes: int = 0
    gpus: int = 0
    gpu_error: float | None = None
    gpu_problem: str | None = None
    model: str | None = None


def facts_of(
    name: str,
    folders: list[str],
    model: str | None,
    *,
    try_gpu: bool,
    now: Callable[[], float] = time.time,
) -> Facts:
    """Look at the machine that this runs on.

    Args:
        folders: to be written to; `~` is its user's.
        model: `base_model.path`; None where it need not be here.
        try_gpu: whether to compute on a GPU.
    """
    paths = [Path(folder).expanduser() for folder in folders]
    gpus, error, problem = gpu_facts() if try_gpu else (0, None, None)
    return Facts(
        name=name,
        versions={**own_versions(), "ray": metadata.version("ray")},
        time=now(),
        folders={str(path): why_unwritable(path) for path in paths},
        free_bytes=free_bytes(paths[0]) if paths else 0,
        gpus=gpus,
        gpu_error=error,
        gpu_problem=problem,
        model=None if model is None else why_no_model(model),
    )


def why_unwritable(folder: Path) -> str | None:
    """Why a folder cannot be written to, or made; nothing stays behind."""
    there = next((path for path in (folder, *folder.parents) if path.exists()), Path("/"))
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"latentune doctor")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return str(error)
    return None


def free_bytes(folder: Path) -> int:
    """Free bytes of the disk that a folder is, or would be, on."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


def gpu_facts() -> tuple[int, float | None, str | None]:
    """How many GPUs torch sees, and whether the first one multiplies."""
    import torch

    count = torch.cuda.device_count()
    if not count:
        return 0, None, None
    try:
        left, right = torch.rand(_SIDE, _SIDE), torch.rand(_SIDE, _SIDE)
        expected = left.double() @ right.double()
        got = (left.cuda() @ right.cuda()).cpu().double()
    except RuntimeError as error:  # what CUDA raises
        return count, None, str(error).splitlines()[0]
    return count, float((got - expected).abs().max() / expected.abs().max()), None


def why_no_model(path: str) -> str | None:
    """Why a base model cannot be used here; its weights are not read."""
    from trainable.base_model.loading import check_base

    try:
        check_base(path)
    except LatentuneError as error:
        return str(error)
    return None
