"""Abuse A12: secrets of the environment reach nothing that a search writes or says."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator.assignment import DataSource
from orchestrator.events import EventLog, read_events
from orchestrator.folders import SearchFolder
from orchestrator.members import Bench, Member
from orchestrator.safety.redaction import Redaction, SafeFormatter
from orchestrator.tracking import without_credentials
from orchestrator.yaml_source import dump_yaml
from tests.abuse.searches import GOOD, Terminal
from tests.integration.small_search import environment, scratch_folder, small_config
from tests.unit.ledgers import abandoned_search
from trainable.errors import TaskError
from trainable.trial import TrialConfig

CANARIES = {
    "HF_TOKEN": "hf_canaryAbCdEfGh",
    "AWS_ACCESS_KEY_ID": "AKIACANARY0000000",
    "AWS_SECRET_ACCESS_KEY": 'canary/of+aws"with\\signs',
    "MLFLOW_TRACKING_PASSWORD": "canary-of-mlflow",
    "RAY_AUTH_TOKEN": "canary" + "0" * 58,
    "WANDB_API_KEY": "canary-of-wandb",
    "MY_DB_PASSWORD": "canary-of-mine",
}


@pytest.fixture
def canaries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in CANARIES.items():
        monkeypatch.setenv(name, value)
    yield


def leaks(text: str | bytes) -> list[str]:
    """The canaries in a text, as they are or as JSON holds them."""
    raw = text.encode() if isinstance(text, str) else text
    forms = {name: (value, json.dumps(value)[1:-1]) for name, value in CANARIES.items()}
    return [name for name, both in forms.items() if any(form.encode() in raw for form in both)]


def leaks_under(folder: Path) -> dict[str, list[str]]:
    """Every file below a folder that holds a canary."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    found = {str(path.relative_to(folder)): leaks(path.read_bytes()) for path in files}
    return {path: names for path, names in found.items() if names}


def quoted() -> str:
    return "401 for " + " and ".join(CANARIES.values())


def test_a12_the_check_sees_a_leak(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(json.dumps({"x": quoted()}))
    assert leaks_under(tmp_path) == {"a": list(CANARIES)}


def test_a12_a_secret_is_told_by_its_variable_s_name() -> None:
    found = Redaction.of_environment(
        CANARIES
        | {"PATH": "/usr/bin:/bin", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "/home/me/t",
           "HF_TOKEN_SHORT": "abc", "TOKENIZERS_PARALLELISM": "false", "LANG": "en_US.UTF-8"}
    )  # fmt: skip
    assert set(found.secrets) == set(CANARIES)
    assert leaks(found.of_text(quoted())) == []
    assert "[HF_TOKEN]" in found.of_text(quoted())
    data = {"a": [quoted(), {"b": (quoted(),)}], quoted(): 1, "n": 1.5, "x": None}
    assert leaks(json.dumps(found.of_data(data))) == []
    assert leaks(found.of_text(json.dumps(data))) == []
    assert Redaction({}).of_data(data) is data


@pytest.mark.usefixtures("canaries")
def test_a12_what_mlflow_is_told_comes_from_a_log_without_secrets(tmp_path: Path) -> None:
    with EventLog(tmp_path / "events.jsonl") as log:
        log.append("trial_ended", {"reason": quoted(), "params": {"a": quoted()}}, "t-0", 1)
        log.append("search_started", {"config": {"x": [quoted()]}, "versions": {quoted(): "1"}})
    assert leaks_under(tmp_path) == {}
    first = next(read_events(tmp_path / "events.jsonl"))
    assert "[HF_TOKEN]" in first.payload["reason"]


@pytest.mark.usefixtures("canaries")
def test_a12_logs_hold_none() -> None:
    record = logging.LogRecord("x", logging.WARNING, "f", 1, "%s", (quoted(),), None)
    assert leaks(SafeFormatter("%(message)s").format(record)) == []
    try:
        raise ValueError(quoted())
    except ValueError:
        record.exc_info = sys.exc_info()
    assert leaks(SafeFormatter("%(message)s").format(record)) == []


@pytest.mark.usefixtures("canaries")
def test_a12_messages_hold_none(terminal: Terminal) -> None:
    said = terminal("run", terminal.file(GOOD | {"name": CANARIES["HF_TOKEN"]}))
    assert said.code == 2
    assert leaks(said.err) == []
    assert "[HF_TOKEN]" in said.err


def test_a12_a_crash_report_holds_none(tmp_path: Path) -> None:
    """An error that nobody expected, with its traceback."""
    code = (
        "import sys, os\n"
        "from orchestrator.safety.redaction import tell_crash\n"
        "sys.excepthook = tell_crash\n"
        "raise RuntimeError('for ' + ' '.join(os.environ[n] for n in sys.argv[1:]))\n"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code, *CANARIES],
        env=os.environ | CANARIES | {"PYTHONPATH": root},
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "RuntimeError: for [HF_TOKEN]" in done.stderr
    assert leaks(done.stderr) == []


def test_a12_a_tracking_uri_s_password_is_not_shown(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = "http://me:canary-of-mlflow@127.0.0.1:9/x"
    assert without_credentials(f"at {uri}", uri) == "at http://127.0.0.1:9/x"
    abandoned_search(terminal.home)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    said = terminal("status", "tiny", "--json")
    assert said.code == 0
    assert leaks(said.out + said.err) == []


class TellingEngine:
    """What its metric raises quotes every secret: of one member at once, of another in training."""

    def ask(self, method: str, *arguments: Any) -> Any:
        if method == "join" and arguments[0].uid.endswith("0"):
            raise TaskError(quoted())

    def begin(self, method: str, *arguments: Any) -> Any:
        return method

    def ready(self, calls: Sequence[Any], timeout_s: float) -> list[Any]:
        return list(calls)

    def answer(self, call: Any) -> Any:
        raise TaskError(quoted())


@pytest.mark.usefixtures("canaries")
def test_a12_a_failed_confirmation_holds_none(tmp_path: Path) -> None:
    folder = SearchFolder.of(tmp_path, "tiny")
    folder.path.mkdir(parents=True)
    members = [Member(uid=f"tiny-confirm-a-{n}", config=TrialConfig.from_dict({})) for n in "01"]
    said: list[str] = []
    with EventLog(folder.events) as events:
        bench = Bench(
            engine=TellingEngine(), name="engine", data=DataSource({}, 0, None, "refuse", ""),
            splits=["val_id"], steps=4, at_once=2, folder=folder, events=events,
            halt=lambda: False, say=said.append,
        )  # fmt: skip
        reports = bench.train(members)
    told = [reports[member.uid].failed for member in members]
    assert all(failed is not None and "[HF_TOKEN]" in failed for failed in told)
    assert leaks_under(tmp_path) == {}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a12_a_whole_search_leaves_none(tmp_path: Path, tiny_folder: Path) -> None:
    """A metric of the user's own quotes every secret: a confirmation and all trials fail by it."""
    (tmp_path / "own.py").write_text(
        "import os\n"
        "def tell(*, answer, reference, prompt):\n"
        f"    if answer != reference and os.path.exists({str(tmp_path / 'tells')!r}):\n"
        f"        raise ValueError(' '.join(os.environ[name] for name in {list(CANARIES)!r}))\n"
        "    return 1.0\n"
    )
    rows: list[dict[str, Any]] = [{"prompt": f"{i}=", "completion": str(i)} for i in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    split = {"val": 0.25, "test": 0.25}
    task = {"kind": "records", "train": "rows.jsonl", "split": split, "metrics": ["own.py:tell"]}
    good = small_config(
        tiny_folder, task=task, objective="val_id/tell", tracking={"experiment": "canaries"},
        stopping={"min_steps": 2, "factor": 3, "metric": "val_id/nll"},
        confirm={"enabled": False, "seeds": 2, "top": 1},
    )  # fmt: skip
    bad = good | {"name": "failing"}
    with scratch_folder() as scratch:
        variables = os.environ | environment(scratch) | CANARIES
        variables |= {"LATENTUNE_HOME": str(tmp_path / "home")}
        for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
            variables.pop(name, None)

        def say(*arguments: str) -> subprocess.CompletedProcess[bytes]:
            command = "from orchestrator.cli import main; main()"
            return subprocess.run(
                [sys.executable, "-c", command, *arguments],
                env=variables, cwd=tmp_path, capture_output=True, check=False, timeout=240,
            )  # fmt: skip

        (tmp_path / "search.yaml").write_text(dump_yaml(good))
        done = say("run", "search.yaml")
        assert done.returncode == 0, done.stderr
        assert say("pull", good["name"], "--to", "pulled").returncode == 0
        (tmp_path / "tells").touch()
        unconfirmed = say("confirm", good["name"])
        (tmp_path / "search.yaml").write_text(dump_yaml(bad))
        lost = say("run", "search.yaml")
        assert lost.returncode == 1, lost.stderr
        failed = say("evaluate", "pulled", "rows.jsonl", "--metric", "own.py:tell", "--to", "out")
        assert b"ValueError" in failed.stderr
        told = [done, unconfirmed, lost, failed, say("status", good["name"], "--json"), say("list")]
        assert [leaks(one.stdout + one.stderr) for one in told] == [[]] * len(told)
    assert (tmp_path / "home" / "mlflow.db").exists()
    assert (tmp_path / "home" / "searches" / good["name"] / "report").exists()
    members = (tmp_path / "home/searches" / good["name"] / "confirm/members").glob("*.json")
    assert any("[HF_TOKEN]" in path.read_text() for path in members)
    assert "[HF_TOKEN]" in (tmp_path / "home/searches/failing/events.jsonl").read_text()
    assert leaks_under(tmp_path / "home") == {}
    assert leaks_under(tmp_path / "pulled") == {}
