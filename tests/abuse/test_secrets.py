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
from orchestrator.shipper import _configured_uri
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
    "OPENAI_KEY": "canary-of-openai",
    "SSH_KEY": "canary\n-of-several-lines",
    "DB_PASS": "canary-of-pass",
    "AZURE_STORAGE_CONNECTION_STRING": "DefaultEndpointsProtocol=https;AccountKey=canaryOfAzure==",
    "SENTRY_DSN": "https://canaryofsentry@sentry.example/1",
    "DATABASE_URL": "postgres://u:canary%2Fof%2Fmine@h/x",
}
PIECES = {  # what of a value is secret by itself, and how messages may have it
    "SSH_KEY": ["-of-several-lines"],
    "AZURE_STORAGE_CONNECTION_STRING": ["canaryOfAzure=="],
    "SENTRY_DSN": ["canaryofsentry"],
    "DATABASE_URL": ["canary%2Fof%2Fmine", "canary/of/mine"],
}
# Of URLs that a search would use: the value, and what of it is secret.
URLS = [
    ("LATENTUNE_STORAGE", "postgresql+psycopg://u:canary-of-studies@h/db", "canary-of-studies"),
    ("LATENTUNE_STORAGE", "postgresql://u:canary/with/slashes@h/db", "canary/with/slashes"),
    ("LATENTUNE_STORAGE", "postgresql://h/db?user=u&password=canary-asked", "canary-asked"),
    ("MLFLOW_TRACKING_URI", "http://me:canary-of-uri@h:5000", "canary-of-uri"),
    ("HTTPS_PROXY", "http://u:canary@of@proxy@h:1", "canary@of@proxy"),
    ("HTTPS_PROXY", "http://u:short@h:1", "u:short"),
    ("PIP_INDEX_URL", "https://canary-token:@h/simple", "canary-token"),
    ("CELERY_BROKERS", "redis://:canary-one@a:1,redis://:canary-two@b:2", "canary-two"),
    ("LIBPQ", "host=h password=canary-of-libpq user=u", "canary-of-libpq"),
    ("MYSQL_PWD", "canary-of-mysql", "canary-of-mysql"),
]
HARMLESS = {
    "PATH": "/usr/bin:/bin",
    "PWD": "/home/me/project",
    "OLDPWD": "/home/me/project",
    "SSH_AUTH_SOCK": "/tmp/ssh-abcdefgh/agent.1",  # noqa: S108 - no file of ours
    "SSH_ASKPASS": "/usr/bin/ssh-askpass",
    "KEYBOARD_LAYOUT": "neo-deluxe",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN_PATH": "/home/me/t",
    "HF_TOKEN_SHORT": "abc",
    "OPENAI_KEY": "",
    "DB_PASS": "abc",
    "TOKENIZERS_PARALLELISM": "false",
    "LANG": "en_US.UTF-8",
    "GIT_REMOTE": "ssh://git@example.org/a",
    "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000/a@b",
    "LATENTUNE_STORAGE": "postgresql+psycopg://latentune@h/latentune",
}


@pytest.fixture
def canaries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in CANARIES.items():
        monkeypatch.setenv(name, value)
    yield


def leaks(text: str | bytes) -> list[str]:
    """The canaries in a text, as they are or as JSON holds them."""
    raw = text.encode() if isinstance(text, str) else text
    found = {name: [value, *PIECES.get(name, [])] for name, value in CANARIES.items()}
    return [
        name
        for name, pieces in found.items()
        if any(f.encode() in raw for p in pieces for f in (p, json.dumps(p)[1:-1]))
    ]


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
    found = Redaction.of_environment(CANARIES)
    assert set(found.secrets.values()) == {f"[{name}]" for name in CANARIES} | {"[DATABASE_URL]@"}
    assert leaks(found.of_text(quoted())) == []
    assert "[HF_TOKEN]" in found.of_text(quoted())
    data = {"a": [quoted(), {"b": (quoted(),)}], quoted(): 1, "n": 1.5, "x": None}
    assert leaks(json.dumps(found.of_data(data))) == []
    assert leaks(found.of_text(json.dumps(data))) == []
    pieces = " ".join(piece for all_ in PIECES.values() for piece in all_)
    assert leaks(found.of_text(pieces)) == []
    assert Redaction({}).of_data(data) is data


def test_a12_ordinary_variables_hold_none() -> None:
    assert Redaction.of_environment(HARMLESS).secrets == {}


@pytest.mark.parametrize(("name", "value", "secret"), URLS)
def test_a12_a_url_s_login_is_taken_out(name: str, value: str, secret: str) -> None:
    """The whole URL, also where something follows it; and its login or its secret alone."""
    found = Redaction.of_environment({name: value})
    assert found.of_text(f"no {value}/x") == f"no [{name}]/x"
    for text in (f"at {value[:-1]}", f"sqlalchemy.exc: {secret}@h", json.dumps([value])):
        assert secret not in found.of_text(text)


def test_a12_a_password_that_is_a_user_s_name_hides_no_other_word() -> None:
    found = Redaction.of_environment({"STORE": "db://latentune:latentune@h/latentune"})
    assert found.of_text("db://latentune:latentune@h/x") == "db://[STORE]@h/x"
    assert found.of_text("the experiment latentune") == "the experiment latentune"


def test_a12_the_shipper_knows_a_password_that_the_event_log_does_not(tmp_path: Path) -> None:
    """One and the same database user, in the environment and in the search file."""
    uri = "postgresql://u:canary-of-studies@h/mlflow"
    folder = SearchFolder.of(tmp_path, "tiny")
    folder.path.mkdir(parents=True)
    folder.config.write_text(dump_yaml(GOOD | {"tracking": {"uri": uri}}))
    with EventLog(folder.events) as log:
        log.append("search_started", {"config": {"tracking": {"uri": "postgresql://[X]@h/mlflow"}}})
    assert _configured_uri(folder.path) == uri


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
