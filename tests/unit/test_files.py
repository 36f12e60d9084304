"""Files that appear whole or not at all."""

from __future__ import annotations

import ast
import errno
import os
from pathlib import Path

import pytest

from orchestrator.files import write_atomic
from trainable.errors import DiskFullError
from trainable.files import free_bytes, is_full, shown_bytes

ROOT = Path(__file__).parents[2]


def test_a_write_replaces_and_leaves_nothing_behind(tmp_path: Path) -> None:
    for data in (b"one", b"two"):
        write_atomic(tmp_path / "file", data)
    assert (tmp_path / "file").read_bytes() == b"two"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    write_atomic(tmp_path / "file", b"one")

    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=r"disk full: .*file cannot|Input/output") as caught:
        write_atomic(tmp_path / "file", b"two")
    assert isinstance(caught.value, DiskFullError) == (number != errno.EIO)
    assert (tmp_path / "file").read_bytes() == b"one"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_file_and_folder_are_on_the_disk_when_it_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def note(number: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{number}"))
        fsync(number)

    monkeypatch.setattr(os, "fsync", note)
    write_atomic(tmp_path / "file", b"one")
    assert synced == [str(tmp_path / f".file.{os.getpid()}.tmp"), str(tmp_path)]


def test_what_is_full_is_told_from_other_errors() -> None:
    assert is_full(DiskFullError("disk full"))
    assert is_full(OSError("[Errno 28] Error writing bytes. No space left on device"))
    assert not is_full(PermissionError(errno.EACCES, "Permission denied"))
    assert not is_full(ValueError("No space left on device"))


def test_free_space_is_that_of_the_nearest_folder(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "not" / "yet" / "there") > 0
    assert [shown_bytes(n) for n in (12, 4096, 1_500_000, 2.5e12)] == [
        "12 B",
        "4.1 kB",
        "1.5 MB",
        "2.5e+03 GB",
    ]


# Who writes without the helpers, and why it may.
_WRITERS = {
    "orchestrator/driver_lock.py": "a note for people, beside a lock",
    "orchestrator/events.py": "the log's own way: append, fsync, cut what is torn",
    "orchestrator/engines/parcels.py": "into a scratch folder",
    "orchestrator/inspection.py": "into a scratch folder",
    "orchestrator/files.py": "the helper",
    "orchestrator/jobs/package.py": "into a scratch folder",
    "orchestrator/report/telling.py": "a process's log",
    "orchestrator/safety/ray_token.py": "a new file, with mode 0600 from the start",
    "orchestrator/service/mlflow_server.py": "a process's log",
    "orchestrator/service/on_end.py": "a process's log",
    "orchestrator/service/secret_files.py": "new files alone, and with mode 0600 from the start",
    "orchestrator/tracking.py": "a process's log",
    "orchestrator/ui.py": "a process's log",
    "trainable/artifact.py": "into a scratch folder",
    "trainable/base_model/pretrain.py": "a recipe's output, made once",
    "trainable/peft_format.py": "into a scratch folder",
}


def test_nothing_else_writes_files() -> None:
    """Every write is atomic: a new one uses `write_atomic`, `whole_file` or `whole_folder`."""
    found = set()
    for package in ("orchestrator", "trainable", "search_spaces"):
        for path in (ROOT / package).rglob("*.py"):
            calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
            if any(map(_writes, calls)):
                found.add(path.relative_to(ROOT).as_posix())
    assert found == set(_WRITERS)


def _writes(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name in ("write_text", "write_bytes", "save_file"):
        return True
    if name != "open":
        return False
    arguments = ast.unparse(call)
    modes = ("'w", "'a", "'x", "'r+", "O_RDWR", "O_WRONLY")
    return any(mode in arguments for mode in modes)
