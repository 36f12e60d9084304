"""Ctrl-C once and twice, SIGTERM, a frozen driver, and two drivers at the same time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.fault_names import Fault
from orchestrator.config import SearchConfig
from orchestrator.driver import run
from orchestrator.events import read_events
from tests.faults.aftermath import Aftermath, chaos_config
from tests.faults.tally import Tally
from tests.integration.small_search import ROOT, wait_until

pytestmark = [
    pytest.mark.faults,
    pytest.mark.slow,
    pytest.mark.timeout(900),  # seconds each on a quiet machine
    pytest.mark.filterwarnings("ignore"),  # Ray's and MLflow's own
    pytest.mark.usefixtures("warm_engine"),
]

COMMAND = [sys.executable, "-c", "from orchestrator.cli import main; main()"]
DRAINED_S = 30.0
CHECKED = "its exit code; run again: trials, ends, runs, points exactly once"


class Terminal:
    """A search's folder, and commands run on it in a process group of their own."""

    def __init__(self, tmp_path: Path, config: SearchConfig, uri: str) -> None:
        self.home = tmp_path / "home"
        self.config = config
        self.left = Aftermath(self.home, config, uri)
        self._file = tmp_path / "search.yaml"
        self._file.write_text(config.to_yaml())

    def start(self) -> subprocess.Popen[str]:
        """`latentune run`."""
        return subprocess.Popen(
            [*COMMAND, "run", str(self._file), "--yes"],
            cwd=ROOT, env={**os.environ, "LATENTUNE_HOME": str(self.home)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def start_and_report(self) -> subprocess.Popen[str]:
        """`latentune run`, once a trial has reported."""
        process = self.start()
        wait_until(lambda: self._told(process, "trial_report"), 120)
        return process

    def go_on(self) -> None:
        """Run it again to its end and hold everything against what it left."""
        assert run(self.config, home=self.home).state == "complete"
        self.left.check()

    def _told(self, process: subprocess.Popen[str], kind: str) -> bool:
        assert process.poll() is None, process.communicate()
        return any(event.type == kind for event in read_events(self.left.folder.events))


@pytest.fixture
def terminal(
    tmp_path: Path,
    mlflow_url: str,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Iterator[Terminal]:
    """A search that takes some seconds: there is time to interrupt it."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_url)
    name = request.node.name.removeprefix("test_").replace("_", "-").replace("[", "-").strip("]")
    yield Terminal(
        tmp_path,
        chaos_config(name.lower()[:60], budget={"trials": 4, "steps": 512}),
        mlflow_url,
    )


def ended(process: subprocess.Popen[str], seconds: float) -> tuple[int, str]:
    """The exit code and what was said."""
    try:
        out, err = process.communicate(timeout=seconds)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, out + err


def test_ctrl_c_once(terminal: Terminal, tally: Tally) -> None:
    with tally.trying(Fault.CTRL_C, CHECKED) as row:
        process = terminal.start_and_report()
        began = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        code, said = ended(process, 120)
        took_s = time.monotonic() - began
        row.numbers["seconds_to_end"] = round(took_s, 1)
        assert code == 130, said
        assert took_s <= DRAINED_S
        assert "Traceback" not in said
        terminal.go_on()


def test_ctrl_c_twice(terminal: Terminal, tally: Tally) -> None:
    with tally.trying(Fault.CTRL_C_TWICE, CHECKED) as row:
        process = terminal.start_and_report()
        began = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.2)  # a person's second press
        os.killpg(process.pid, signal.SIGINT)
        code, said = ended(process, 120)
        row.numbers["seconds_to_end"] = round(time.monotonic() - began, 1)
        assert code == 130, said
        terminal.go_on()


def test_sigterm(terminal: Terminal, tally: Tally) -> None:
    with tally.trying(Fault.SIGTERM, CHECKED):
        process = terminal.start_and_report()
        process.terminate()
        code, said = ended(process, 120)
        assert code != 0, said
        terminal.go_on()


def test_a_second_driver(terminal: Terminal, tally: Tally) -> None:
    with tally.trying(Fault.SECOND_DRIVER, "refused, with host and process id"):
        first = terminal.start_and_report()
        code, said = ended(terminal.start(), 120)
        assert code == 2, said
        assert f"process {first.pid} on " in said
        code, said = ended(first, 240)
        assert code == 0, said
        terminal.left.check()


def test_a_frozen_driver_keeps_its_search(terminal: Terminal, tally: Tally) -> None:
    with tally.trying(Fault.DRIVER_FROZEN, "the second refused; the first ends unharmed"):
        first = terminal.start_and_report()
        first.send_signal(signal.SIGSTOP)
        try:
            code, said = ended(terminal.start(), 120)
        finally:
            first.send_signal(signal.SIGCONT)
        assert code == 2, said
        code, said = ended(first, 240)
        assert code == 0, said
        terminal.left.check()


def test_two_searches_on_one_cluster(
    terminal: Terminal, tmp_path: Path, mlflow_url: str, tally: Tally
) -> None:
    with tally.trying(Fault.TWO_SEARCHES, "both whole, nothing shared"):
        (tmp_path / "other").mkdir()
        config = chaos_config("beside", budget={"trials": 4, "steps": 512})
        other = Terminal(tmp_path / "other", config, mlflow_url)
        first, second = terminal.start_and_report(), other.start()
        for process in (first, second):
            code, said = ended(process, 240)
            assert code == 0, said
        terminal.left.check()
        other.left.check()
