"""One driver per search: a file lock, with a note beside it of who holds it.

Where the ledger is in a database, the lock is a lease there (`study.lease`): machines that
share a folder need not share its locks.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from orchestrator.errors import HomeError, SearchLockedError
from orchestrator.folders import SearchFolder
from orchestrator.study.lease import Lease, is_leased
from orchestrator.study.place import (
    STORAGE_VARIABLE,
    claim_place,
    in_own_file,
    read_place,
    storage_url,
)
from orchestrator.study.storage import Fence, no_fence

_READER_HOLDS_S = 1.0  # `is_held` takes the lock for an instant; that is no driver


@contextmanager
def driver_lock(folder: SearchFolder) -> Iterator[Fence]:
    """Hold a search.

    Yields:
        What each write of the ledger and each event is to ask first.

    Raises:
        SearchLockedError: if another driver holds it, with its host and process id.
        HomeError: if the folder cannot be made.
        LedgerError: if the ledger is in a database that cannot be used.
    """
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HomeError(
            f"LATENTUNE_HOME: {folder.path} cannot be made ({error.strerror}): set it to a folder "
            "that you may write"
        ) from None
    url = storage_url(folder.path)
    with ExitStack() as held:
        if in_own_file(folder.path, url):
            held.enter_context(_file_lock(folder))
            fence: Fence = no_fence
        else:
            fence = held.enter_context(Lease(url, folder.name)).fence
        if claim_place(folder.path) != url:
            raise SearchLockedError(
                f"search {folder.name!r} was just begun by another driver, with its ledger "
                f"elsewhere: give both the same {STORAGE_VARIABLE}"
            )
        yield fence


@contextmanager
def _file_lock(folder: SearchFolder) -> Iterator[None]:
    lock = FileLock(folder.lock)
    try:
        lock.acquire(timeout=_READER_HOLDS_S)
    except Timeout:
        raise SearchLockedError(
            f"search {folder.name!r} is being run by {_holder(folder)}: wait for it, or end it "
            f"with `latentune stop {folder.name}`"
        ) from None
    try:
        _note(folder).write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
        yield
    finally:
        _note(folder).unlink(missing_ok=True)
        lock.release()


def is_held(folder: SearchFolder) -> bool:
    """Whether a driver runs this search now."""
    if read_place(folder.path) is not None:
        return is_leased(storage_url(folder.path), folder.name)
    if not folder.lock.exists():
        return False
    probe = FileLock(folder.lock)
    try:
        probe.acquire(timeout=0)
    except Timeout:
        return True
    probe.release()
    return False


def _holder(folder: SearchFolder) -> str:
    try:
        note = json.loads(_note(folder).read_text())
        return f"process {note['pid']} on {note['host']}"
    except (FileNotFoundError, ValueError, KeyError):
        return "another process"


def _note(folder: SearchFolder) -> Path:
    return folder.path / "lock.json"
