"""Write a folder so that it appears whole or not at all, in place of an earlier one."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A scratch folder to fill; at the end of the block it stands at `folder`, on the disk.

    If the block raises, or the end of it does, what stood at `folder` before is still there.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield scratch
        for path in scratch.iterdir():
            flush(path)
        scratch.chmod(0o755)
        _replace(folder, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def flush(path: Path) -> None:
    """Have a file on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _replace(folder: Path, scratch: Path) -> None:
    """Put `scratch` in the place of `folder`; where that fails, the earlier folder comes back."""
    if not folder.exists():
        scratch.rename(folder)
        return
    earlier = scratch.with_name(f"{scratch.name}.earlier")
    folder.rename(earlier)
    try:
        scratch.rename(folder)
    except OSError:
        earlier.rename(folder)
        raise
    shutil.rmtree(earlier)
