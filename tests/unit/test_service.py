"""The MLflow server's secrets and arguments, without starting one."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.errors import SecretError, TrackingError
from orchestrator.safety.mlflow_accounts import PASSWORD_VARIABLE
from orchestrator.service import mlflow_server
from orchestrator.service.__main__ import app
from orchestrator.service.mlflow_server import (
    ServerOptions,
    keep_credentials,
    own_credentials,
    server_command,
    stop_running,
)
from orchestrator.service.secret_files import (
    ADMIN_PASSWORD,
    CREDENTIALS,
    FLASK_KEY,
    POSTGRES_PASSWORD,
    RAY_TOKEN,
    SERVICE_USER,
    as_credentials,
    credentials,
    ensure_secret,
    make_all,
    read_secret,
)
from orchestrator.service.server_record import ServerRecord, read_server, write_server


@pytest.fixture(autouse=True)
def plain_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (PASSWORD_VARIABLE, "LATENTUNE_SECRETS", "PGPASSWORD", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_secrets_are_the_owners_alone(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    paths = make_all(folder)
    assert {path.name for path in paths} == {
        RAY_TOKEN, POSTGRES_PASSWORD, ADMIN_PASSWORD, FLASK_KEY, CREDENTIALS,
    }  # fmt: skip
    assert {path.stat().st_mode & 0o777 for path in paths} == {0o600}
    assert folder.stat().st_mode & 0o777 == 0o700
    texts = {path.name: read_secret(path) for path in paths}
    assert len(set(texts.values())) == len(texts)
    assert min(map(len, texts.values())) >= 48
    assert credentials(texts[CREDENTIALS])[0] == SERVICE_USER
    make_all(folder)
    assert {path.name: read_secret(path) for path in paths} == texts, "made once"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_one_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    ensure_secret(tmp_path / "s", RAY_TOKEN)
    (tmp_path / "s" / RAY_TOKEN).chmod(mode)
    with pytest.raises(SecretError, match="chmod 600"):
        ensure_secret(tmp_path / "s", RAY_TOKEN)


def test_credentials_go_there_and_back() -> None:
    assert credentials(as_credentials("ann", "p%w=[x]")) == ("ann", "p%w=[x]")
    with pytest.raises(SecretError, match="credentials"):
        credentials("nothing of the kind")


def test_no_secret_is_an_argument(tmp_path: Path) -> None:
    make_all(tmp_path / "secrets")
    options = ServerOptions(home=tmp_path, store_uri="postgresql+psycopg://latentune@db/mlflow")
    command, environment = server_command(options)
    for name in (ADMIN_PASSWORD, FLASK_KEY, CREDENTIALS, POSTGRES_PASSWORD):
        assert read_secret(tmp_path / "secrets" / name) not in " ".join(command)
    assert environment[PASSWORD_VARIABLE] == read_secret(tmp_path / "secrets" / ADMIN_PASSWORD)
    assert environment["PGPASSWORD"] == read_secret(tmp_path / "secrets" / POSTGRES_PASSWORD)
    assert environment["MLFLOW_BACKEND_STORE_URI"] == "postgresql+psycopg://latentune@db/mlflow"


def test_the_doors_are_shut(tmp_path: Path) -> None:
    command, environment = server_command(ServerOptions(home=tmp_path))
    words = " ".join(command)
    assert "--app-name basic-auth" in words
    assert "--host 127.0.0.1" in words
    assert "--allowed-hosts localhost:*,127.0.0.1:*" in words
    assert "disable-security" not in words
    assert environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert "MLFLOW_DEFAULT_ARTIFACT_ROOT" not in environment, "artifacts go through the server"
    assert environment["MLFLOW_ARTIFACTS_DESTINATION"] == str(tmp_path / "mlartifacts")


def test_a_password_from_the_environment_makes_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PASSWORD_VARIABLE, "from-elsewhere-12")
    assert server_command(ServerOptions(home=tmp_path))[1][PASSWORD_VARIABLE] == "from-elsewhere-12"
    assert not (tmp_path / "secrets" / ADMIN_PASSWORD).exists()


def test_searches_log_in_as_their_own_user(tmp_path: Path) -> None:
    keep_credentials(as_credentials(SERVICE_USER, "first-password"))
    keep_credentials(as_credentials(SERVICE_USER, "second-password"))
    assert credentials(own_credentials().read_text()) == (SERVICE_USER, "second-password")
    assert own_credentials().stat().st_mode & 0o777 == 0o600
    assert own_credentials() == Path(os.environ["HOME"]) / ".mlflow" / "credentials"


def test_a_persons_own_credentials_stay(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keep_credentials(as_credentials("ann", "her-own-password"))
    keep_credentials(as_credentials(SERVICE_USER, "another-password"))
    assert credentials(own_credentials().read_text())[0] == "ann"
    assert "holds another user" in caplog.text


@pytest.mark.parametrize("name", ["admin", SERVICE_USER])
def test_the_servers_own_users_are_nobodys(tmp_path: Path, name: str) -> None:
    """Their passwords are in the server's files, and a new one would lock the server out."""
    to = tmp_path / "person"
    done = CliRunner().invoke(app, ["user", name, "--to", str(to), "--url", "http://127.0.0.1:9"])
    assert done.exit_code == 2
    assert "take another name" in " ".join(done.output.replace("│", " ").split())
    assert not to.exists()


def test_a_person_gets_no_password_that_the_server_does_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENTUNE_HOME", str(tmp_path / "home"))
    for _ in range(2):  # the second time as the first: no file is in the way
        nobody = ["user", "ann", "--to", str(tmp_path / "ann"), "--url", "http://127.0.0.1:9"]
        error = CliRunner().invoke(app, nobody).exception
        assert isinstance(error, TrackingError) and "cannot be reached" in str(error)
        assert not (tmp_path / "ann").exists()


def test_what_it_notes_holds_no_password(tmp_path: Path) -> None:
    write_server(tmp_path, ServerRecord(store="postgresql://u:hidden@h/db", pid=7))
    assert read_server(tmp_path) == ServerRecord(store="postgresql://u@h/db", pid=7)


def test_nothing_is_ended_where_no_server_runs(tmp_path: Path) -> None:
    write_server(tmp_path, ServerRecord(pid=os.getpid()))  # of one that was killed; a number again
    assert not stop_running(ServerOptions(home=tmp_path))
    assert not stop_running(ServerOptions(home=tmp_path / "none"))


class Server:
    """A process that never ends by itself."""

    returncode = -15

    def __init__(self, ends_after: int | None = None) -> None:
        self.polls, self.ends_after = 0, ends_after

    def poll(self) -> int | None:
        self.polls += 1
        return self.returncode if self.ends_after == self.polls else None


def test_it_ends_some_time_after_its_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_server, "PEER_GONE_S", 0.2)
    monkeypatch.setattr(mlflow_server, "_POLL_S", 0.01)
    with socket.socket() as peer:
        peer.bind(("127.0.0.1", 0))
        peer.listen(100)
        address = f"127.0.0.1:{peer.getsockname()[1]}"
        with pytest.raises(TrackingError, match="ended with -15"):  # its own end comes first
            mlflow_server._wait(Server(ends_after=30), address)  # type: ignore[arg-type]
    server = Server()
    mlflow_server._wait(server, address)  # type: ignore[arg-type]
    assert server.polls > 3, "not at the first silence: Ray may be starting again"
