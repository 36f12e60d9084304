"""A cluster's MLflow server for real: who gets in, who may choose, and that it comes back."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from orchestrator.doctor.mlflow_checks import check_mlflow
from orchestrator.errors import BackupError, TrackingError
from orchestrator.registry import download
from orchestrator.service.backup import TRACKING, backup, restore
from orchestrator.service.postgres import tables
from orchestrator.service.secret_files import credentials, read_secret
from orchestrator.shipper import Watch, ship
from tests.integration.mlflow_server import free_port
from tests.integration.tracked_search import NAME, tracked_search

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
MODULE = [sys.executable, "-m", "orchestrator.service"]


@dataclass
class Service:
    """A server of a home, run as cluster.yaml runs it."""

    home: Path
    url: str
    environment: dict[str, str]

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            [*MODULE, *arguments], env=self.environment, capture_output=True, text=True,
            timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def person(self, name: str, *options: str) -> tuple[str, str]:
        """Add a person; how that person logs in."""
        to = self.home.parent / f"{name}-credentials"
        self.run("user", name, "--to", str(to), "--url", self.url, *options)
        return credentials(read_secret(to))


@contextmanager
def service(home: Path, store: str | None = None) -> Iterator[Service]:
    port = free_port()
    arguments = ["mlflow", "--port", str(port), *(["--store", store] if store else [])]
    left_out = ("MLFLOW_TRACKING_URI", "MLFLOW_AUTH_ADMIN_PASSWORD", "LATENTUNE_SECRETS")
    environment = {key: value for key, value in os.environ.items() if key not in left_out}
    environment |= {"LATENTUNE_HOME": str(home), "HOME": str(home.parent)}
    running = Service(home, f"http://127.0.0.1:{port}", environment)
    running.run(*arguments, "--detach")
    try:
        yield running
    finally:
        verb = ["orchestrator.service", "mlflow", "--port", str(port)]
        pids = [pid for pid, words in processes() if words[2:6] == verb]
        assert len(pids) == 1
        os.kill(pids[0], signal.SIGTERM)
        gone(pids[0])


def processes() -> Iterator[tuple[int, list[str]]]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield int(path.parent.name), path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue


def gone(pid: int) -> None:
    subprocess.run(["tail", "--pid", str(pid), "-f", "/dev/null"], timeout=60, check=True)  # noqa: S607


@contextmanager
def logged_in(monkeypatch: pytest.MonkeyPatch, who: tuple[str, str]) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_USERNAME", who[0])
        patch.setenv("MLFLOW_TRACKING_PASSWORD", who[1])
        yield


def answer(url: str, **headers: str) -> int:
    try:
        asked = urllib.request.Request(url, headers=headers)  # noqa: S310 - our own server
        with urllib.request.urlopen(asked, timeout=20) as reply:  # noqa: S310
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code


def tell(running: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search of that home, told to the server by the searches' own user."""
    own = credentials(read_secret(running.home.parent / ".mlflow" / "credentials"))
    with logged_in(monkeypatch, own), tracked_search(running.home / "tracked") as search:
        search.tell_all()
        assert ship(search.folder, running.url, until_ended=True, watch=Watch(60))


def test_people_of_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with service(tmp_path / "home") as running:
        assert answer(f"{running.url}/health") == 200
        assert answer(f"{running.url}/api/2.0/mlflow/users/current") == 401
        assert answer(f"{running.url}/", Host="evil.example") == 403
        running.run(
            "mlflow", "--port", running.url.rsplit(":", 1)[1], "--detach"
        )  # it runs already
        tell(running, monkeypatch)

        reader = running.person("reader")
        chooser = running.person("chooser", "--may-choose")
        assert_the_doctor_is_let_in(running, reader, monkeypatch)
        client = MlflowClient(running.url)
        with logged_in(monkeypatch, ("reader", "not-the-password")):
            with pytest.raises((TrackingError, MlflowException), match="401"):
                download(NAME, to=tmp_path / "no", home=tmp_path, tracking_uri=running.url)
        with logged_in(monkeypatch, reader):
            with pytest.raises(MlflowException, match=r"403|[Pp]ermission"):
                client.set_registered_model_alias(NAME, "champion", "1")
            candidate = download(NAME, to=tmp_path / "a", home=tmp_path, tracking_uri=running.url)
        with logged_in(monkeypatch, chooser):
            client.set_registered_model_alias(NAME, "champion", "1")
        with logged_in(monkeypatch, reader):
            champion = download(NAME, to=tmp_path / "b", home=tmp_path, tracking_uri=running.url)
        told = [(f / "latent_config.json").read_text() for f in (candidate, champion)]
        assert told[0] != told[1]
        assert_no_secret_is_shown(running)


def assert_the_doctor_is_let_in(
    running: Service, who: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = running.home.parent / "nobody"
    with monkeypatch.context() as patch:
        patch.setenv("HOME", str(nobody))  # without MLflow's credentials
        found = check_mlflow(running.url)
        assert (found.outcome, found.detail.partition(" wants ")[1]) == ("failed", " wants ")
        shutil.copytree(running.home.parent / ".mlflow", nobody / ".mlflow")
        assert check_mlflow(running.url).outcome == "ok"  # as the searches' own user
    with logged_in(monkeypatch, who):
        assert check_mlflow(running.url).outcome == "ok"
    with logged_in(monkeypatch, (who[0], "not-the-password")):
        found = check_mlflow(running.url)
        assert (found.outcome, f"refused the user {who[0]!r}" in found.detail) == ("failed", True)


def assert_no_secret_is_shown(running: Service) -> None:
    secrets = [read_secret(path) for path in (running.home / "secrets").iterdir()]
    secrets += [credentials(text)[1] for text in secrets if "mlflow_tracking_password" in text]
    arguments = "\n".join(" ".join(words) for _, words in processes())
    log = (running.home / "mlflow-server.log").read_text()
    assert [text for text in secrets if text in arguments or text in log] == []
    closed = [path for path in running.home.glob("mlflow*") if path.stat().st_mode & 0o077]
    assert closed == [], "databases of passwords are the owner's alone"


def test_a_backup_comes_back_on_a_head_that_is_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As docs/cluster.md tells it: end the new server, restore, start it again."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with service(tmp_path / "home") as running:
        tell(running, monkeypatch)
        reader = running.person("reader")
        backup(running.home, tmp_path / "copy")
    with service(tmp_path / "new" / "home") as running:
        with pytest.raises(BackupError, match="service stop"):
            restore(tmp_path / "copy", running.home)
        assert "has ended" in running.run("stop")
        assert "no MLflow server runs" in running.run("stop")
        running.home.rename(tmp_path / "home.empty")
        restore(tmp_path / "copy", running.home)
        # It returns once the searches' own user can log in.
        running.run("mlflow", "--port", running.url.rsplit(":", 1)[1], "--detach")
        with logged_in(monkeypatch, reader):
            found = download(NAME, to=tmp_path / "to", home=tmp_path, tracking_uri=running.url)
        assert (found / "latent_config.json").exists()


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[str]:
    """A Postgres of our own, from the installed programs; its URI without a database."""
    if shutil.which("initdb") is None or shutil.which("pg_ctl") is None:
        pytest.skip("Postgres is not installed")
    data, port = tmp_path / "pg", free_port()
    data.mkdir()
    as_whom = {"user": "nobody", "cwd": "/"} if os.geteuid() == 0 else {}
    if as_whom:  # Postgres refuses to run as root
        shutil.chown(data, "nobody")
        for parent in (tmp_path, *tmp_path.parents):
            if parent.stat().st_uid == 0 and str(parent).count("pytest"):
                parent.chmod(0o711)
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"

    def run(*command: str) -> None:
        done = subprocess.run(command, capture_output=True, text=True, timeout=150, **as_whom)  # type: ignore[call-overload]
        assert done.returncode == 0, f"{command}: {done.stdout} {done.stderr}"

    run("initdb", "-D", str(data), "-U", "latentune", "--auth=trust", "--no-sync")
    run("pg_ctl", "-D", str(data), "-l", str(data / "log"), "-w", "-o", options, "start")
    try:
        uri = f"postgresql://latentune@127.0.0.1:{port}"
        for name in ("mlflow", "again"):
            run("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "latentune", name)
        yield uri
    finally:
        run("pg_ctl", "-D", str(data), "-m", "immediate", "-t", "120", "stop")


def test_a_backup_of_a_postgres_comes_back(
    postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    first, store = tmp_path / "home", re.sub("^postgresql", "postgresql+psycopg", postgres)
    with service(first, f"{store}/mlflow") as running:
        tell(running, monkeypatch)
        reader = running.person("reader")
        before = backup(first, tmp_path / "copy")  # which database it is, the server has noted
    assert before.databases == {TRACKING: f"{store}/mlflow".replace("latentune@", "")}
    assert "postgres/mlflow.dump" in before.files

    before_uri, empty = ({TRACKING: f"{store}/{name}"} for name in ("mlflow", "again"))
    with pytest.raises(BackupError, match=r"has \d+ tables"):
        restore(tmp_path / "copy", tmp_path / "new" / "home", databases=before_uri)
    assert tables(f"{postgres}/again") == 0
    restore(tmp_path / "copy", tmp_path / "new" / "home", databases=empty)
    with service(tmp_path / "new" / "home", f"{store}/again") as running:
        with logged_in(monkeypatch, reader):  # people and passwords came back, too
            found = download(NAME, to=tmp_path / "to", home=tmp_path, tracking_uri=running.url)
        assert (found / "latent_config.json").exists()
