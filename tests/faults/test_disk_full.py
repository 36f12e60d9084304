"""The disk that a search lives on fills up, at a random report, and is freed again."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.fault_names import Fault
from orchestrator.driver import run
from tests.faults.acting import AtReport
from tests.faults.aftermath import Aftermath, Scores, chaos_config
from tests.faults.tally import Tally
from trainable.errors import DiskFullError

pytestmark = [
    pytest.mark.faults,
    pytest.mark.slow,
    pytest.mark.timeout(900),  # seconds each on a quiet machine
    pytest.mark.filterwarnings("ignore"),  # Ray's and MLflow's own
    pytest.mark.usefixtures("warm_engine"),
]

DISK = "40m"  # a search keeps 8 MB of it, and needs some more
_chance = random.Random(8)  # noqa: S311 - faults, no secrets
FULL_AT = [(_chance.randint(1, 10), _chance.choice((0, 4096, 40_000))) for _ in range(4)]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a few dozen megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["/bin/mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(disk)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    yield disk
    subprocess.run(["/bin/umount", "--lazy", str(disk)], check=True)


def fill(disk: Path, left_bytes: int) -> None:
    """Leave so many bytes free."""
    free = os.statvfs(disk)
    size = max(0, free.f_bavail * free.f_frsize - left_bytes)
    with (disk / "filler").open("wb", buffering=0) as file:
        written = 0
        while written < size:
            written += file.write(b"\0" * min(2**16, size - written))


@pytest.mark.parametrize(("report", "left_bytes"), FULL_AT)
def test_it_ends_and_goes_on_once_there_is_space(
    report: int,
    left_bytes: int,
    small_disk: Path,
    mlflow_url: str,
    reference: Scores,
    tally: Tally,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_url)
    config = chaos_config(f"full-{report}-{left_bytes}")
    checked = "ends with a message; then trials, ends, runs, points exactly once; scores"
    with tally.trying(Fault.DISK, checked) as row:
        watcher = AtReport(report, lambda: fill(small_disk, left_bytes))
        with pytest.raises(DiskFullError, match="run the same command again"):
            run(config, home=small_disk / "home", watcher=watcher)
        (small_disk / "filler").unlink()
        assert run(config, home=small_disk / "home").state == "complete"
        left = Aftermath(small_disk / "home", config, mlflow_url)
        row.steps_again += left.check(reference)
