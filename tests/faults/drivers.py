"""Drivers as processes of their own, some of which die where they are told to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.config import SearchConfig
from tests.faults.doomed import NEVER
from tests.integration.small_search import ROOT

LONGEST_S = 240.0


@contextmanager
def start_driver(
    config: SearchConfig, home: Path, instant: str = NEVER, count: int = 0, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A driver of a search, ended with the block; what it says goes to `driver.log` beside `home`.

    Args:
        instant: one of `doomed.INSTANTS`, `at` or `never`.
    """
    home.mkdir(exist_ok=True)
    file = home.parent / "search.yaml"
    file.write_text(config.to_yaml())
    command = [sys.executable, "-m", "tests.faults.doomed"]
    with (home.parent / "driver.log").open("ab") as log:
        driver = subprocess.Popen(
            [*command, str(file), str(home), instant, str(count)],
            cwd=ROOT, env={**os.environ, **environment}, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield driver
    finally:
        driver.kill()
        driver.wait()


def kill_driver(config: SearchConfig, home: Path, instant: str, count: int) -> bool:
    """Run a driver that dies at an instant; whether it died, and did not end before."""
    with start_driver(config, home, instant, count) as driver:
        code = driver.wait(LONGEST_S)
    assert code in (0, -signal.SIGKILL), (home.parent / "driver.log").read_text()[-2000:]
    return code != 0
