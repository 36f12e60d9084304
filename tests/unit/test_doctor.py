"""The doctor's judgements, one by one, from made-up facts; and its findings on this machine."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path

import pytest
import sqlalchemy
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.doctor import checks, mlflow_checks
from orchestrator.doctor.checks import FLOORS
from orchestrator.doctor.examination import examine
from orchestrator.doctor.facts import Facts, facts_of
from orchestrator.doctor.findings import DoctorReport, Finding
from orchestrator.errors import TrackingUriError
from orchestrator.service.secret_files import as_credentials, write_secret
from orchestrator.tracking import tracking_uri

VERSIONS = {
    "latentune": "1.0",
    "code": "abc",
    "python": "3.11.7",
    "ray": "2.60.0",
    "mlflow": "3.17.2",
    "torch": "2.13.0+cpu",
    "transformers": "5.23.0",
}
CLIENT = Facts(name="client", versions=VERSIONS, time=1000.0)
NODE = replace(CLIENT, name="w1")


def outcome(finding: Finding) -> str:
    """Every finding that is not well has a remedy, and no other has one."""
    assert (finding.remedy is not None) == (finding.outcome in ("failed", "warning"))
    return finding.outcome


def test_old_packages_are_named() -> None:
    assert outcome(checks.check_floors("client", VERSIONS)) == "ok"
    found = checks.check_floors("client", VERSIONS | {"ray": "2.9.3", "torch": "not installed"})
    assert outcome(found) == "failed"
    assert "ray 2.9.3 (at least 2.59)" in found.detail
    assert "torch not installed" in found.detail
    assert "mlflow" not in found.detail


def test_the_floors_are_met_where_the_tests_run() -> None:
    for name in FLOORS:
        if name != "python":
            found = checks.check_floors("client", VERSIONS | {name: metadata.version(name)})
            assert outcome(found) == "ok"


@pytest.mark.parametrize(
    ("name", "version", "expected"),
    [
        ("torch", "2.13.0+cu130", "ok"),  # another build
        ("python", "3.11.9", "ok"),
        ("python", "3.12.1", "failed"),
        ("torch", "2.12.0", "failed"),
        ("transformers", "5.22.0", "failed"),
        ("ray", "2.59.0", "failed"),
        ("code", "stale", "failed"),
    ],
)
def test_a_node_runs_what_the_client_runs(name: str, version: str, expected: str) -> None:
    found = checks.check_same_versions(CLIENT, replace(NODE, versions=VERSIONS | {name: version}))
    assert outcome(found) == expected
    assert (version in found.detail) == (expected == "failed")


@pytest.mark.parametrize(
    ("ahead", "trip", "expected"),
    [(0.1, 0.1, "ok"), (-20.0, 40.0, "ok"), (8.0, 0.2, "warning"), (-3600.0, 1.0, "failed")],
)
def test_clocks(ahead: float, trip: float, expected: str) -> None:
    assert outcome(checks.check_clock("w1", ahead, trip)) == expected


def test_models() -> None:
    assert outcome(checks.check_model(NODE, "bundled")) == "ok"
    missing = replace(NODE, model="neither cached nor reachable")
    assert outcome(checks.check_model(missing, "org/name")) == "failed"
    assert outcome(checks.check_model(missing, "/here", is_sent=True)) == "skipped"


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, metadata.version("mlflow"), "ok"),
        (200, "2.1.0", "warning"),
        (401, "", "failed"),
        (403, "", "failed"),
        (500, "", "failed"),
    ],
)
def test_mlflow_servers(status: int, body: str, expected: str) -> None:
    uri = "http://user:canary@mlflow:5000"
    found = mlflow_checks.check_server(uri, lambda uri: (status, body, "the user 'user'"))
    assert outcome(found) == expected
    assert "canary" not in found.detail
    assert ("refused the user 'user'" in found.detail) == (status == 401)
    assert ("allowed-hosts" in (found.remedy or "")) == (status == 403)


def test_an_mlflow_server_that_does_not_answer() -> None:
    found = mlflow_checks.check_server("http://user:canary@127.0.0.1:9")  # the port that discards
    assert outcome(found) == "failed"
    assert "http://127.0.0.1:9 does not answer" in found.detail
    assert "canary" not in found.detail
    assert outcome(mlflow_checks.check_server("http://127.0.0.1:abc")) == "failed"


def test_a_tracking_uri_without_a_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:canary@[::1")
    with pytest.raises(TrackingUriError, match="its host cannot be read") as caught:
        tracking_uri(tmp_path)
    assert "canary" not in str(caught.value)


class Closed(BaseHTTPRequestHandler):
    """An MLflow server with basic-auth, as far as the doctor sees of it."""

    def do_GET(self) -> None:
        pair = base64.b64encode(b"ann:secret word").decode()
        known = self.headers.get("Authorization") == f"Basic {pair}"
        self.send_response(200 if known and self.path == "/version" else 401)
        self.end_headers()
        self.wfile.write(metadata.version("mlflow").encode() if known else b"")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def closed_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Its URL; nobody has logged in."""
    for name in ("USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), Closed) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_doctor_logs_in_as_searches_do(
    closed_mlflow: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look() -> tuple[str, str]:
        found = mlflow_checks.check_mlflow(closed_mlflow)
        assert "word" not in found.model_dump_json().replace("PASSWORD", "")
        return outcome(found), found.detail.removeprefix(f"{closed_mlflow} ")

    assert look() == ("failed", "wants a user, and there is none here")
    write_secret(tmp_path / ".mlflow" / "credentials", as_credentials("ann", "secret word"))
    version = metadata.version("mlflow")
    assert look() == ("ok", f"answers, version {version}, and lets the user 'ann' in")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "bob")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "another word")
    assert look() == ("failed", "refused the user 'bob'")


def test_mlflow_databases(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert outcome(mlflow_checks.check_database(uri)) == "skipped"
    engine = sqlalchemy.create_engine(uri)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE alembic_version (version_num TEXT)"))
        insert = sqlalchemy.text("INSERT INTO alembic_version VALUES (:revision)")
        connection.execute(insert, {"revision": "451aebb31d03"})
    engine.dispose()
    old = mlflow_checks.check_database(uri, lambda: "newer")
    assert outcome(old) == "failed"
    assert old.remedy is not None and "mlflow db upgrade" in old.remedy
    assert outcome(mlflow_checks.check_database(uri, lambda: "451aebb31d03")) == "ok"


@pytest.mark.slow
def test_a_new_mlflow_database_has_the_current_schema(tmp_path: Path) -> None:
    from orchestrator.tracking import ensure_store

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    ensure_store(tmp_path, uri)
    assert outcome(mlflow_checks.check_database(uri)) == "ok"


def test_this_machine_without_a_cluster(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "no"))
    report = examine(tmp_path, model=str(tiny_folder))
    assert report.address is None and report.nodes is None
    told = {one.check: one.outcome for one in report.findings}
    assert set(told) == {"versions", "folders", "disk", "gpu", "model", "mlflow", "token"}
    assert told["model"] == told["folders"] == "ok"
    assert DoctorReport.model_validate_json(report.model_dump_json()) == report


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    facts = facts_of("client", "no/such-model", tmp_path)
    assert facts.model is not None and "no/such-model" in facts.model


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator.doctor import examination

    told = {"expected": None, "deadline_s": 0.0}

    def examined(home: Path, address: str | None, **options: object) -> DoctorReport:
        told.update(options)  # type: ignore[arg-type]
        wrong = Finding(
            check="disk", where="client", outcome="failed", detail="[full]", remedy="free space"
        )
        return DoctorReport(address=address, findings=[wrong] if address else [])

    monkeypatch.setattr(examination, "examine", examined)
    monkeypatch.setenv("LATENTUNE_HOME", str(tmp_path))
    run = CliRunner().invoke
    assert run(app, ["doctor"]).exit_code == 0
    bad = run(app, ["doctor", "--address", "auto", "--expect", "3", "--deadline", "5"])
    assert bad.exit_code == 1
    assert "│ failed │ [full]" in bad.output  # a text is a text: no markup, and nothing escaped
    assert (told["expected"], told["deadline_s"]) == (3, 5.0)
    assert run(app, ["doctor", "--expect", "none"]).exit_code == 2
    outside = ["--address", "http://head:8265"]
    for options in ([*outside, "--expect", "3"], [*outside, "--deadline", "9"], ["--expect", "3"]):
        refused = run(app, ["doctor", *options])
        assert refused.exit_code == 2
        assert "--address auto" in " ".join(refused.output.split())
    as_json = run(app, ["doctor", "--address", "auto", "--json"])
    assert as_json.exit_code == 1
    assert DoctorReport.model_validate_json(as_json.stdout).findings[0].remedy == "free space"
