"""A search on a disk that becomes full: it ends with exit code 1, says so, and goes on later."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.config import SearchConfig
from orchestrator.disk import RESERVE
from orchestrator.ledger import read_ledger
from tests.integration.small_search import Left, scratch_folder, wait_until
from tests.integration.test_cli import Shell, long_config, started
from tests.small_disk import fill, small_disk

pytestmark = [
    pytest.mark.slow,
    pytest.mark.faults,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """A shell whose LATENTUNE_HOME is a file system of its own."""
    with scratch_folder() as scratch, small_disk(tmp_path / "home", "48m"):
        yield Shell(tmp_path, scratch)


@pytest.mark.parametrize("left", [0, RESERVE // 2])
def test_a_full_disk_ends_a_search_cleanly_and_it_goes_on_when_there_is_space(
    shell: Shell, tiny_folder: Path, left: int
) -> None:
    data = long_config(tiny_folder, steps=1500)
    file = shell.file(data)
    process = shell.start("run", file)
    begun = started(shell.home)
    try:
        wait_until(lambda: begun() or process.poll() is not None, 240)
        ballast = fill(shell.home, left)
        out, err = process.communicate(timeout=240)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    assert process.returncode == 1, out + err
    assert "disk full: " in err
    assert "run the same command again" in err
    assert "Traceback" not in err, err
    ballast.unlink()  # SQLite needs a little space even to read
    trials = read_ledger(shell.home / "searches" / "small", "small")
    assert not [trial for trial in trials if trial.status == "failed"]
    code, out, err = shell("run", file)
    assert code == 0, out + err
    Left(shell.home, SearchConfig.model_validate(data)).check_whole(trials=4)


def test_a_search_that_cannot_fit_is_refused_before_anything_is_spent(
    shell: Shell, tiny_folder: Path
) -> None:
    file = shell.file(long_config(tiny_folder))
    ballast = fill(shell.home, RESERVE)
    code, out, err = shell("run", file)
    assert code == 1, out + err
    assert "this search will write about" in err
    assert "Traceback" not in err
    assert not (shell.home / "searches" / "small").exists()
    ballast.unlink()
