"""Write a folder so that it appears whole or not at all, in place of an earlier one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainable.files import flush, naming_full_disk

_EARLIER = ".earlier"


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A scratch folder to fill; at the end of the block it stands at `folder`, on the disk.

    If the block raises, or the end of it does, what stood at `folder` before is still there.

    Raises:
        DiskFullError: where there is no space.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _bring_back(folder)
    with naming_full_disk(folder):
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            yield scratch
            for path in (*scratch.iterdir(), scratch):
                flush(path)
            scratch.chmod(0o755)
            _replace(folder, scratch)
            flush(folder.parent)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _replace(folder: Path, scratch: Path) -> None:
    """Put `scratch` in the place of `folder`; where that fails, the earlier folder comes back."""
    if not folder.exists():
        scratch.rename(folder)
        return
    earlier = scratch.with_name(f"{scratch.name}{_EARLIER}")
    folder.rename(earlier)
    try:
        scratch.rename(folder)
    except OSError:
        earlier.rename(folder)
        raise
    shutil.rmtree(earlier)


def _bring_back(folder: Path) -> None:
    """Put a folder back that a process was killed over, between the two renames."""
    if not folder.exists():
        for earlier in folder.parent.glob(f".{folder.name}.*{_EARLIER}"):
            earlier.rename(folder)
            return
