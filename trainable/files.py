"""Write a file so that it appears whole or not at all, and say which one a full disk refused.

    .NAME.PID.tmp ─ write ─ fsync ─ rename ─► NAME ─ fsync of the folder

Whoever is killed in between leaves the earlier file as it was.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from trainable.errors import DiskFullError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_FULL_TEXT = "No space left on device"  # of libraries that keep no error number


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A scratch path to write to; at the end of the block the file stands at `path`, on disk.

    Raises:
        DiskFullError: where there is no space; what stood at `path` before is still there.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming_full_disk(path):
            yield scratch
            flush(scratch)
            scratch.replace(path)
            flush(path.parent)
    finally:
        scratch.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Have a file, or what a folder lists, on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Turn the bare error of a full disk, or a spent quota, into one that says what to do."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        if isinstance(error, DiskFullError) or not is_full(error):
            raise
        raise full_disk(path) from error


def is_full(error: BaseException) -> bool:
    """Whether an error means that there is no space."""
    if isinstance(error, DiskFullError) or (isinstance(error, OSError) and error.errno in _FULL):
        return True
    return isinstance(error, OSError | SafetensorError) and _FULL_TEXT in str(error)


def full_disk(path: Path) -> DiskFullError:
    """The error for a file that found no space."""
    return DiskFullError(
        f"disk full: {path} cannot be written ({shown_bytes(free_bytes(path))} free there); free "
        "some space and run the same command again: it goes on from what was stored last"
    )


def free_bytes(path: Path) -> int:
    """What is free where a file is, or would be; 0 where nobody can tell."""
    for folder in (path, *path.parents):
        try:
            return shutil.disk_usage(folder).free
        except OSError:
            continue
    return 0


def shown_bytes(count: float) -> str:
    """A size for people: `1.5 MB`."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
