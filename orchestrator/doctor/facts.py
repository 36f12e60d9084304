"""What a machine says of itself: looked up where it runs, judged elsewhere."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from orchestrator.engines.handshake import own_versions
from orchestrator.engines.parcels import Provisions
from orchestrator.folders import HOME_VARIABLE
from trainable.errors import LatentuneError
from trainable.files import free_bytes

_SIDE = 256  # of the matrices that a GPU multiplies


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder that searches write to.

    Args:
        variable: of the environment, that moves it.
        problem: why it cannot be written; None where it can, or need not be.
        is_written: whether it is; models are only read where HF_HUB_OFFLINE is set.
        disk: the number of the disk that it is, or would be, on.
        free_bytes: of that disk.
    """

    path: str
    variable: str
    problem: str | None = None
    is_written: bool = True
    disk: int = 0
    free_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU that was tried.

    Args:
        name: its number, or its id, on that machine.
        error: how far a product of two matrices was off, relative to the CPU's; None where none
            could be made.
        problem: why not.
    """

    name: str
    error: float | None = None
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class Facts:
    """One machine.

    Args:
        name: for people.
        versions: what it runs.
        time: its clock when asked, in seconds since 1970.
        folders: that are written to there.
        model: why the base model cannot be used; None where it can.
    """

    name: str
    versions: dict[str, str]
    time: float
    folders: tuple[Folder, ...] = ()
    model: str | None = None


def facts_of(
    name: str,
    model: str | None,
    home: Path | None = None,
    now: Callable[[], float] = time.time,
) -> Facts:
    """Look at the machine that this runs on; its GPUs are looked at by `gpus_here`.

    Args:
        model: `base_model.path`; None where it need not be here.
        home: LATENTUNE_HOME, of a machine that has one; else its folders are an engine's.
    """
    return Facts(
        name=name,
        versions={**own_versions(), "ray": metadata.version("ray")},
        time=now(),
        folders=engine_folders() if home is None else (look_at(home, HOME_VARIABLE),),
        model=None if model is None else why_no_model(model),
    )


def engine_folders() -> tuple[Folder, ...]:
    """Where an engine on this machine keeps what it is sent, and models that it downloads.

    Both are told by the environment here, as an engine is.
    """
    from huggingface_hub import constants

    return (
        look_at(Provisions.of_this_node().folder, "XDG_CACHE_HOME"),
        look_at(Path(constants.HF_HUB_CACHE), "HF_HOME", is_written=not constants.HF_HUB_OFFLINE),
    )


def look_at(path: Path, variable: str, *, is_written: bool = True) -> Folder:
    """Look at a folder, or at what of it is there."""
    there = _there(path)
    return Folder(
        path=str(path),
        variable=variable,
        problem=why_unwritable(path) if is_written else None,
        is_written=is_written,
        disk=there.stat().st_dev,
        free_bytes=free_bytes(there),
    )


def why_unwritable(folder: Path) -> str | None:
    """Why a folder cannot be written to, or made; nothing stays behind."""
    try:
        with tempfile.TemporaryFile(dir=_there(folder)) as file:
            file.write(b"latentune doctor")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return str(error)
    return None


def _there(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there, for all that may be seen."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if os.path.exists(path))


def gpus_here() -> tuple[Gpu, ...]:
    """Multiply on every GPU that torch sees; on a cluster, those that Ray gave this process."""
    import torch

    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    names = given.split(",") if given else [str(index) for index in range(count)]
    return tuple(
        Gpu(name=name, error=error, problem=problem)
        for name, (error, problem) in zip(names, map(_multiply, range(count)), strict=False)
    )


def _multiply(index: int) -> tuple[float | None, str | None]:
    """How far a GPU's product is off, or why there is none."""
    import torch

    left, right = torch.rand(_SIDE, _SIDE), torch.rand(_SIDE, _SIDE)
    expected = left.double() @ right.double()
    try:
        device = torch.device("cuda", index)
        got = (left.to(device) @ right.to(device)).cpu().double()
    except RuntimeError as error:  # what CUDA raises
        return None, (str(error).splitlines() or [type(error).__name__])[0]
    return float((got - expected).abs().max() / expected.abs().max()), None


def why_no_model(path: str) -> str | None:
    """Why a base model cannot be used here; its weights are not read."""
    from trainable.base_model.loading import check_base

    try:
        check_base(path)
    except LatentuneError as error:
        return str(error)
    return None
