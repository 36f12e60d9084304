"""What faults do to Ray Tune + OptunaSearch + MLflowLoggerCallback, glued by hand.

    python -m benchmarks.glued_faults [ARM ...]        # writes results/faults-glued.json

The same questions as `make faults` asks of a search of ours, where they can be asked: is it the
number of trials asked for, is none left running, is there one MLflow run per trial, was any refused
that had to be. MLflow's own retries are cut down (`SHORT`) in all arms but one, so that an outage
ends in seconds; with its defaults one call blocks for minutes.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import optuna
from mlflow import MlflowClient
from optuna.storages.journal import JournalFileBackend

from benchmarks.fault_names import GLUED, GLUED_TRIALS, GluedFault, study_url
from benchmarks.machine import RESULTS
from tests.faults.standing import standing_cluster
from tests.faults.tally import Row, Tally
from tests.integration.mlflow_server import free_port, server
from tests.integration.small_search import kill_own

ROOT = Path(__file__).parent.parent
SEED = 6
KILLS = 10
SHORT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
DEFAULTS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "7", "MLFLOW_HTTP_REQUEST_TIMEOUT": "120"}
LONGEST_S = 180.0
AWAY_S = 15.0
CHECKED = "exactly the trials asked for, none left running, one MLflow run per trial"


class Glued:
    """One glued search and what it left.

    Args:
        folder: where it lives; its name is the MLflow experiment.
        url: of the MLflow server.
    """

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self._url = url
        self._log = folder / "driver.log"

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        """Its driver as a process."""
        command = [sys.executable, "-m", "benchmarks.glued_fault_search"]
        self.folder.mkdir(exist_ok=True)
        with self._log.open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - our own script
                [*command, str(self.folder), self._url, *arguments],
                cwd=ROOT, env={**os.environ, **SHORT, **environment},
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def reports(self) -> int:
        """How many reports the study has; read so that nothing is created or locked."""
        path = self.folder / "study.db"
        with (
            suppress(sqlite3.OperationalError),  # its tables are only just being made
            closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as study,
        ):
            count = study.execute("SELECT COUNT(*) FROM trial_intermediate_values").fetchone()
            return int(count[0])
        return 0

    def trials(self) -> list[optuna.trial.FrozenTrial]:
        """Optuna's."""
        study = optuna.load_study(study_name=GLUED, storage=study_url(self.folder))
        return study.get_trials(deepcopy=False)

    def wait_report(self, driver: subprocess.Popen[bytes]) -> None:
        """Until a trial has reported."""
        deadline = time.monotonic() + LONGEST_S
        while not self.reports():
            assert driver.poll() is None, self.last_words()
            assert time.monotonic() < deadline, "no report came"
            time.sleep(0.1)

    def ended(self, driver: subprocess.Popen[bytes]) -> int:
        """Its exit code; one that does not end is killed."""
        try:
            return driver.wait(LONGEST_S)
        finally:
            if driver.poll() is None:
                os.killpg(driver.pid, signal.SIGKILL)
                driver.wait()

    def last_words(self) -> str:
        """The last line of its log that names an error."""
        lines = [line for line in self._log.read_text().splitlines() if "Error" in line]
        return lines[-1].strip()[:160] if lines else "no error was printed"

    def check(self, row: Row, code: int) -> None:
        """Count all that is wrong, then say whether anything was."""
        states = Counter(trial.state.name for trial in self.trials())
        client = MlflowClient(tracking_uri=self._url)
        experiment = client.get_experiment_by_name(self.folder.name)
        assert experiment is not None, "nothing came to MLflow"
        runs = client.search_runs([experiment.experiment_id], max_results=1000)
        running = sum(run.info.status == "RUNNING" for run in runs)
        wrong = {
            "ended with an error": int(code != 0),
            "other than the trials asked for complete": int(states["COMPLETE"] != GLUED_TRIALS),
            "trials left RUNNING in Optuna": states["RUNNING"],
            "MLflow runs too many": max(0, len(runs) - GLUED_TRIALS),
            "MLflow runs left RUNNING": running,
        }
        for what, count in wrong.items():
            row.numbers[what] = row.numbers.get(what, 0) + count
        if code:
            self.note_crash(row)
        said = [f"{what}: {count}" for what, count in wrong.items() if count]
        assert not said, "; ".join(said)

    def note_crash(self, row: Row) -> None:
        """Count the error that ended a driver."""
        words = f"`{self.last_words()}`"
        row.numbers[words] = row.numbers.get(words, 0) + 1


class Arms:
    """The faults, one method each.

    Args:
        tally: counts them.
        scratch: where searches live.
        url: of an MLflow server that stays up.
    """

    def __init__(self, tally: Tally, scratch: Path, url: str) -> None:
        self._tally = tally
        self._scratch = scratch
        self._url = url

    def none(self) -> None:
        """Without any fault: what is checked can hold."""
        with trying(self._tally, GluedFault.NONE) as row:
            glued = Glued(self._scratch / "none", self._url)
            glued.check(row, glued.ended(glued.start()))

    def driver(self) -> None:
        """SIGKILL at random times, then `Tuner.restore`."""
        chance = random.Random(SEED)  # noqa: S311 - faults, no secrets
        for place in range(KILLS):
            with trying(self._tally, GluedFault.DRIVER) as row:
                glued = Glued(self._scratch / f"driver-{place}", self._url)
                driver = glued.start()
                glued.wait_report(driver)
                time.sleep(chance.uniform(0, 5))
                driver.kill()
                driver.wait()
                glued.check(row, glued.ended(glued.start("restore")))

    def worker(self) -> None:
        """SIGKILL of all trial processes."""
        for place in range(2):
            with trying(self._tally, GluedFault.TRIALS) as row:
                glued = Glued(self._scratch / f"worker-{place}", self._url)
                driver = glued.start()
                glued.wait_report(driver)
                for title in ("ray::SleepyTrial", "ray::ResourceTrainable"):
                    kill_own(title)
                glued.check(row, glued.ended(driver))

    def interrupt(self) -> None:
        """Ctrl-C, then `Tuner.restore`."""
        with trying(self._tally, GluedFault.CTRL_C) as row:
            glued = Glued(self._scratch / "interrupt", self._url)
            driver = glued.start()
            glued.wait_report(driver)
            os.killpg(driver.pid, signal.SIGINT)
            glued.ended(driver)
            glued.check(row, glued.ended(glued.start("restore")))

    def second(self) -> None:
        """Two drivers of one search."""
        checked = "refused; the first ends unharmed"
        with trying(self._tally, GluedFault.SECOND_DRIVER, checked) as row:
            glued = Glued(self._scratch / "second", self._url)
            first = glued.start()
            glued.wait_report(first)
            second = glued.ended(glued.start())
            glued.check(row, glued.ended(first))
            assert second != 0, "the second was not refused"

    def away(self) -> None:
        """MLflow killed, with short timeouts, and not back."""
        checked = "the search ends with all its trials"
        with trying(self._tally, GluedFault.MLFLOW_GONE, checked) as row:
            port = free_port()
            glued = Glued(self._scratch / "gone", f"http://127.0.0.1:{port}")
            with server(self._scratch / "gone-server", port, proxied=True):
                driver = glued.start()
                glued.wait_report(driver)
            code = glued.ended(driver)
            complete = sum(trial.state.name == "COMPLETE" for trial in glued.trials())
            row.numbers["trials complete"] = f"{complete} of {GLUED_TRIALS}"
            if code:
                glued.note_crash(row)
            assert not code, "the search was ended"
            assert complete == GLUED_TRIALS

    def back(self) -> None:
        """MLflow killed for some seconds, with its own default retries."""
        with trying(self._tally, GluedFault.MLFLOW_AWAY) as row:
            port, store = free_port(), self._scratch / "back-server"
            glued = Glued(self._scratch / "back", f"http://127.0.0.1:{port}")
            with server(store, port, proxied=True):
                driver = glued.start(**DEFAULTS)
                glued.wait_report(driver)
            began, reports = time.monotonic(), glued.reports()
            time.sleep(AWAY_S)
            row.numbers["reports while it was away"] = glued.reports() - reports
            with server(store, port, proxied=True):
                code = glued.ended(driver)
                row.numbers["seconds from its death to the end"] = round(time.monotonic() - began)
                glued.check(row, code)


@contextmanager
def trying(tally: Tally, fault: str, checked: str = CHECKED) -> Iterator[Row]:
    """As `Tally.trying`; what does not hold is counted, and the next fault is tried."""
    with (
        suppress(AssertionError, subprocess.TimeoutExpired),
        tally.trying(fault, checked) as row,
    ):
        yield row


def cut_journal(tally: Tally, scratch: Path) -> None:
    """Optuna's journal file, cut at every byte of its last record; no process is needed for it."""
    path, checked = scratch / "journal.log", "the study opens and takes two more trials"
    for _ in range(3):
        _add_trial(path)
    whole = path.read_bytes()
    begin = whole.rindex(b"\n", 0, -1) + 1
    for cut in range(begin, len(whole)):
        with trying(tally, GluedFault.JOURNAL_CUT, checked):
            path.write_bytes(whole[:cut])
            try:
                _add_trial(path)
                _add_trial(path)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise AssertionError(f"{type(error).__name__}: {error}") from None


def _add_trial(path: Path) -> None:
    backend = JournalFileBackend(str(path))
    storage = optuna.storages.JournalStorage(backend)
    study = optuna.create_study(storage=storage, study_name=GLUED, load_if_exists=True)
    trial = study.ask()
    study.tell(trial, trial.suggest_float("x", 0, 1))


ARMS = ("none", "driver", "worker", "interrupt", "second", "away", "back")
JOURNAL = "journal"


def main(arguments: Sequence[str]) -> None:
    """Try the faults named, by default all, and store what was seen, after each."""
    tally, names = Tally(), arguments or (JOURNAL, *ARMS)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="lt", dir="/tmp", ignore_cleanup_errors=True) as path:
        scratch = Path(path)
        if JOURNAL in names:
            cut_journal(tally, scratch)
            tally.store(RESULTS / "faults-glued.json")
        if chosen := [name for name in ARMS if name in names]:
            with (
                standing_cluster(scratch),
                server(scratch / "mlflow", free_port(), proxied=True) as url,
            ):
                for name in chosen:
                    getattr(Arms(tally, scratch, url), name)()
                    tally.store(RESULTS / "faults-glued.json")
    for row in tally.rows.values():
        sys.stdout.write(f"{row.survived} of {row.tried}: {row.fault} {json.dumps(row.numbers)}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
