"""MLflow dies under a running search: for a minute, for ever, or it never answers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from benchmarks.fault_names import Fault
from orchestrator.driver import run
from orchestrator.events import EventLog
from orchestrator.tracking import start_shipper
from tests.faults.acting import AtReport
from tests.faults.aftermath import Aftermath, chaos_config
from tests.faults.tally import Row, Tally
from tests.integration.mlflow_server import free_port, server
from tests.integration.small_search import ROOT

pytestmark = [
    pytest.mark.faults,
    pytest.mark.slow,
    pytest.mark.timeout(900),  # seconds each on a quiet machine
    pytest.mark.filterwarnings("ignore"),  # Ray's and MLflow's own
    pytest.mark.usefixtures("warm_engine"),
]

AWAY_S = 60.0
BLOCKED_SHARE = 0.001
CHECKED = "the search ends; runs and points exactly once after return or `sync`"
LONG_STEPS = 4096


class Blocked:
    """Seconds that the driver's thread spends on behalf of tracking."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, original: Callable[..., object]) -> Callable[..., object]:
        """The same function, on the clock."""

        def on_the_clock(*arguments: object, **options: object) -> object:
            began = time.perf_counter()
            try:
                return original(*arguments, **options)
            finally:
                self.seconds += time.perf_counter() - began

        return on_the_clock


@contextmanager
def blocked_time() -> Iterator[Blocked]:
    """Time all that a driver does for tracking while trials run: events and the shipper's start."""
    blocked = Blocked()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EventLog, "append", blocked.timed(EventLog.append))
        patch.setattr("orchestrator.tracking.start_shipper", blocked.timed(start_shipper))
        yield blocked


def sync(left: Aftermath) -> None:
    """Send what a search could not, by `latentune sync`."""
    code = "from orchestrator.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "sync", left.config.name], cwd=ROOT,
        env={**os.environ, "LATENTUNE_HOME": str(left.home)},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def note_blocked(row: Row, blocked: Blocked, total_s: float) -> None:
    row.numbers = {
        "driver_s": round(total_s, 2),
        "blocked_s": round(blocked.seconds, 4),
        "blocked_share": blocked.seconds / total_s,
    }


def test_away_for_a_minute(tmp_path: Path, tally: Tally, monkeypatch: pytest.MonkeyPatch) -> None:
    port, store = free_port(), tmp_path / "server"
    url = f"http://127.0.0.1:{port}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
    config = chaos_config(
        "away", budget={"trials": 4, "steps": LONG_STEPS},
        stopping={"kind": "median", "startup_trials": 1000, "min_steps": 16, "factor": 4},
    )  # fmt: skip
    with ExitStack() as first, ExitStack() as second:
        first.enter_context(server(store, port, proxied=True))

        def come_back() -> None:
            second.enter_context(server(store, port, proxied=True))

        back = threading.Timer(AWAY_S, come_back)

        def die() -> None:
            first.close()
            back.start()

        with tally.trying(Fault.MLFLOW_AWAY, CHECKED) as row:
            with blocked_time() as blocked:
                began = time.monotonic()
                result = run(config, home=tmp_path / "home", watcher=AtReport(1, die))
            assert result.state == "complete"
            assert result.time is not None
            back.join()
            left = Aftermath(tmp_path / "home", config, url)
            sync(left)
            left.check()
            note_blocked(row, blocked, result.time.total_s)
            row.numbers["with_the_wait_at_the_end_s"] = round(time.monotonic() - began, 1)
            assert row.numbers["blocked_share"] <= BLOCKED_SHARE


def test_never_back(tmp_path: Path, tally: Tally, monkeypatch: pytest.MonkeyPatch) -> None:
    port, store = free_port(), tmp_path / "server"
    url = f"http://127.0.0.1:{port}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
    config, home = chaos_config("never"), tmp_path / "home"
    with tally.trying(Fault.MLFLOW_GONE, CHECKED):
        with ExitStack() as first:
            first.enter_context(server(store, port, proxied=True))
            assert run(config, home=home, watcher=AtReport(2, first.close)).state == "complete"
        left = Aftermath(home, config, url)
        left.check_ledger()
        left.check_events()
        with server(store, port, proxied=True):
            sync(left)
            left.check_tracking()


def test_it_takes_calls_and_never_answers(
    tmp_path: Path, tally: Tally, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, home = chaos_config("silent"), tmp_path / "home"
    with (
        tally.trying(Fault.MLFLOW_SILENT, CHECKED),
        socket.create_server(("127.0.0.1", 0)) as silent,
    ):
        port = silent.getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        assert run(config, home=home).state == "complete"
        silent.close()
        left = Aftermath(home, config, url)
        left.check_ledger()
        left.check_events()
        with server(tmp_path / "server", port, proxied=True):
            sync(left)
            left.check_tracking()
