"""Drivers as processes of their own, some of which die where they are told to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from orchestrator.config import SearchConfig
from tests.faults.doomed import AT, NEVER
from tests.integration.small_search import ROOT

LONGEST_S = 240.0
_TRIES = 5


@contextmanager
def start_driver(
    config: SearchConfig,
    home: Path,
    instant: str = NEVER,
    count: int = 0,
    module: str = "tests.faults.doomed",
    **environment: str,
) -> Iterator[subprocess.Popen[bytes]]:
    """A driver of a search, ended with the block; what it says goes to `driver.log` beside `home`.

    Args:
        instant: one of `doomed.INSTANTS`, `at` or `never`.
        module: whose instants these are.
    """
    home.mkdir(exist_ok=True)
    file = home.parent / "search.yaml"
    file.write_text(config.to_yaml())
    command = [sys.executable, "-m", module]
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


def is_frozen(process: int) -> bool:
    """Whether a process was stopped by a signal."""
    state = Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split()[0]
    return state == "T"


def kill_driver(config: SearchConfig, home: Path, instant: str, count: int) -> bool:
    """Run a driver that dies at an instant; whether it died, and did not end before."""
    with start_driver(config, home, instant, count) as driver:
        code = driver.wait(LONGEST_S)
    assert code in (0, -signal.SIGKILL), (home.parent / "driver.log").read_text()[-2000:]
    return code != 0


def kill_on_the_clock(
    named: Callable[[str], SearchConfig], folder: Path, moments_ms: Sequence[int]
) -> tuple[SearchConfig, Path]:
    """A search whose driver was killed, at each of some moments after it had started.

    A search that ended before one of them was not killed, and shows nothing: another is begun, and
    killed in half the time.

    Args:
        named: the search under a name with this ending.
        folder: where the searches' homes go.

    Returns:
        The search that was killed, and its home.
    """
    for again in range(_TRIES):
        config, home = named(str(again)), folder / f"home-{again}"
        if all(kill_driver(config, home, AT, moment >> again) for moment in moments_ms):
            return config, home
    raise AssertionError(f"no driver lived until it was to be killed, at {list(moments_ms)} ms")
