"""Files that somebody else wrote, read as data alone: bounded, plain, and through no link.

    latent_config.json     JSON, at most 4 MB
    latents.safetensors    8 bytes: length of the header, at most 64 KB | header, JSON | numbers

What a file says of itself is believed only once it fits the file: a header of 2 GB, or a shape of
10^12 numbers, is an error before any memory is taken for it. Pickles are refused wherever they
lie, because other programs open what stands in a folder.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError

from trainable.errors import ArtifactError

MOST_JSON_BYTES = 4_000_000
MOST_TENSOR_BYTES = 256 * 2**20
_MOST_HEADER_BYTES = 65_536
_PICKLED = frozenset(
    {".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".joblib", ".dill", ".npy", ".npz"}
)
_PICKLE_OPENINGS = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))

Tensors = TypeVar("Tensors", bound=Mapping[str, Any])


def read_mapping(path: Path, *, links: bool = False) -> dict[str, Any]:
    """A JSON object.

    Args:
        links: whether a link is followed.

    Raises:
        ArtifactError: if it is none, too large, or no plain file.
    """
    raw = _read(path, MOST_JSON_BYTES, links=links)
    try:
        data = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is damaged: {error}; fetch or pull it again") from None
    if not isinstance(data, dict):
        raise ArtifactError(f"{path} must hold a mapping, got {type(data).__name__}")
    return data


def read_tensors(path: Path, load: Callable[[bytes], Tensors], *, links: bool = False) -> Tensors:
    """What a safetensors file holds.

    Args:
        load: `safetensors.numpy.load` or `safetensors.torch.load`.
        links: whether a link is followed.

    Raises:
        ArtifactError: if it is damaged, too large, says what is not so, or is no plain file.
    """
    raw = _read(path, MOST_TENSOR_BYTES, links=links)
    header = int.from_bytes(raw[:8], "little")
    if len(raw) < 8 or header > min(len(raw) - 8, _MOST_HEADER_BYTES):
        raise ArtifactError(
            f"{path} is damaged: its header has {header} bytes by its own word, expected at most "
            f"{_MOST_HEADER_BYTES}, within the file's {len(raw)}; fetch or pull it again"
        )
    try:
        return load(raw)
    except (SafetensorError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise ArtifactError(f"{path} is damaged: {error}; fetch or pull it again") from None


def refuse_pickles(folder: Path) -> None:
    """Refuse a folder with a pickle in it, whatever its name.

    Raises:
        ArtifactError: naming the first one.
    """
    for path in sorted(folder.iterdir()):
        plain = stat.S_ISREG(path.lstat().st_mode)
        if plain and (path.suffix.lower() in _PICKLED or _is_pickle(path)):
            raise ArtifactError(
                f"{path} is a pickle, or named as one, which can run code where it is opened: an "
                "artifact folder holds safetensors and JSON alone; remove it"
            )


def _is_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) in _PICKLE_OPENINGS


def _read(path: Path, most: int, *, links: bool) -> bytes:
    """A plain file's content, at most so many bytes of it."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)  # a pipe would wait for ever
    flags |= 0 if links else getattr(os, "O_NOFOLLOW", 0)
    try:
        opened = os.open(path, flags)
    except OSError as error:
        linked = path.is_symlink() and not links
        reason = "it is a link, and links are not followed" if linked else error.strerror
        raise ArtifactError(f"{path} cannot be read: {reason}") from None
    with os.fdopen(opened, "rb") as file:
        found = os.fstat(opened)
        if not stat.S_ISREG(found.st_mode):
            raise ArtifactError(f"{path} is no plain file")
        if found.st_size > most:
            raise ArtifactError(f"{path} has {found.st_size} bytes, expected at most {most}")
        return file.read(found.st_size)  # not `most`: Python takes that much memory first
