"""Replace a file's content, all of it or nothing."""

from __future__ import annotations

from pathlib import Path

from trainable.files import whole_file


def write_atomic(path: Path, data: bytes) -> None:
    """Replace `path`: temporary name, fsync, rename. On disk when this returns.

    Raises:
        DiskFullError: where there is no space; the earlier file is still there.
    """
    with whole_file(path) as scratch:
        scratch.write_bytes(data)
