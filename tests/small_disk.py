"""A small file system of its own, where this machine lets us mount one."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Mount one over a new folder; the test is skipped where that is not allowed."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if mount is None or umount is None or os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    folder.mkdir()
    command = [mount, "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this machine mounts no tmpfs")
    try:
        yield folder
    finally:
        subprocess.run([umount, "-l", str(folder)], check=True)


def fill(folder: Path, leave: int = 0) -> Path:
    """Take all the space there is, to the last byte or all but `leave`; the file that takes it."""
    path = folder / "ballast"
    with path.open("wb", buffering=0) as file:
        for size in (2**16, 4096, 1):
            try:
                while shutil.disk_usage(folder).free > leave and file.write(bytes(size)):
                    pass
            except OSError:
                continue
    return path
