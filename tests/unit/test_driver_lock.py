"""One driver per search, and readers that are no drivers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from orchestrator.driver_lock import driver_lock, is_held
from orchestrator.errors import SearchLockedError
from orchestrator.folders import SearchFolder

ROOT = Path(__file__).parents[2]
HOLD = """
import sys
from pathlib import Path
from orchestrator.driver_lock import driver_lock
from orchestrator.folders import SearchFolder
with driver_lock(SearchFolder.of(Path(sys.argv[1]), "tiny")):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def folder(tmp_path: Path) -> SearchFolder:
    return SearchFolder.of(tmp_path, "tiny")


@pytest.fixture
def holder(tmp_path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def release(holder: subprocess.Popen[str]) -> None:
    holder.communicate("\n", timeout=60)
    assert holder.returncode == 0


def test_a_second_driver_is_refused_and_told_who_runs_it(
    folder: SearchFolder, holder: subprocess.Popen[str]
) -> None:
    assert is_held(folder)
    with pytest.raises(SearchLockedError) as caught, driver_lock(folder):
        pytest.fail("two drivers run one search")
    message = str(caught.value)
    assert f"process {holder.pid} on {socket.gethostname()}" in message
    assert "latentune stop tiny" in message
    release(holder)
    assert not is_held(folder)
    with driver_lock(folder):
        assert is_held(folder)


def test_a_driver_that_was_killed_holds_nothing(
    folder: SearchFolder, holder: subprocess.Popen[str]
) -> None:
    holder.kill()
    holder.communicate(timeout=60)
    assert not is_held(folder)
    with driver_lock(folder):
        assert f'"pid": {os.getpid()}' in (folder.path / "lock.json").read_text()
    assert not (folder.path / "lock.json").exists()


def test_a_search_that_never_ran_is_not_held_and_not_made(folder: SearchFolder) -> None:
    assert not is_held(folder)
    assert not folder.path.exists()


def test_readers_do_not_keep_a_driver_out(folder: SearchFolder) -> None:
    with driver_lock(folder):
        pass
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            is_held(folder)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for _ in range(20):
            with driver_lock(folder):
                assert is_held(folder)
    finally:
        over.set()
        reader.join()


def test_an_error_inside_gives_the_search_back(folder: SearchFolder) -> None:
    with pytest.raises(ZeroDivisionError), driver_lock(folder):
        _ = 1 / 0
    assert not is_held(folder)
