"""Abuse A9, A10 and A17: who may come in, and whose files we go on with; Ray's doors are beside."""

from __future__ import annotations

import os
import stat
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from orchestrator.config import load_search
from orchestrator.driver import run
from orchestrator.errors import ForeignFolderError, TrackingUriError
from orchestrator.safety.mlflow_accounts import PASSWORD_VARIABLE, SETTINGS_VARIABLE
from orchestrator.safety.ownership import check_ownership
from orchestrator.ui import serve_ui, ui_command
from tests.abuse.listeners import is_loopback, listeners
from tests.abuse.searches import GOOD, Terminal
from tests.integration.mlflow_server import free_port, server
from tests.unit.ledgers import abandoned_search, search_config

PASSWORD = "correct horse battery"  # noqa: S105 - of a server that lives for a second
STRANGER = 12345


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- A9, A10: MLflow


def status(url: str, method: str = "GET", **headers: str) -> int:
    """The status of a request with these headers; `_` in a name is `-`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    body = b"{}" if method == "POST" else None
    asked = urllib.request.Request(url, data=body, headers=named, method=method)  # noqa: S310
    try:
        with urllib.request.urlopen(asked, timeout=20) as reply:  # noqa: S310 - our own server
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """Where it answers, and the id of its process."""
    with pytest.MonkeyPatch.context() as patch:
        # What would switch the checks off, had somebody set it.
        patch.setenv("MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE", "true")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        port = free_port()
        with server(tmp_path_factory.mktemp("home"), port, proxied=False) as url:
            found = {one.laddr.port: one.pid for one in psutil.net_connections("tcp")
                     if one.status == psutil.CONN_LISTEN}  # fmt: skip
            yield url, int(found[port] or 0)


@pytest.fixture
def mlflow_url(mlflow_server: tuple[str, int]) -> str:
    return mlflow_server[0]


@pytest.mark.slow
def test_a09_other_hosts_and_origins_are_answered_with_403(mlflow_url: str) -> None:
    path = f"{mlflow_url}/api/2.0/mlflow/experiments/search?max_results=1"
    create = f"{mlflow_url}/api/2.0/mlflow/experiments/create"
    port = mlflow_url.rpartition(":")[2]
    evil = ("evil.example", f"evil.example:{port}", "10.evil.example", "192.168.evil.example:80",
            "127.0.0.1.evil.example", "localhost.evil.example")  # fmt: skip
    assert [status(path, Host=host) for host in evil] == [403] * len(evil)
    for origin in ("http://evil.example", "null", "https://127.0.0.1.evil.example"):
        assert status(create, "POST", Origin=origin, Content_Type="application/json") == 403
    assert status(path) == 200
    assert status(path, Host=f"localhost:{port}") == 200
    assert status(path, Host="localhost:9999") == 200  # the near end of a tunnel
    posted = status(create, "POST", Origin=mlflow_url, Content_Type="application/json")
    assert posted == 400  # asked, and found without a name


def test_a10_an_open_host_needs_a_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terminal: Terminal
) -> None:
    monkeypatch.delenv(PASSWORD_VARIABLE, raising=False)
    monkeypatch.delenv(SETTINGS_VARIABLE, raising=False)
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org"):  # noqa: S104 - refused
        with pytest.raises(TrackingUriError, match=f"without a password.*set {PASSWORD_VARIABLE}"):
            serve_ui(tmp_path, host)
    monkeypatch.setenv(PASSWORD_VARIABLE, "short")
    with pytest.raises(TrackingUriError, match="has 5 characters, expected at least 12"):
        serve_ui(tmp_path, "0.0.0.0")  # noqa: S104 - refused
    said = terminal("ui", "--host", "0.0.0.0")  # noqa: S104 - refused
    assert said.code == 2
    assert "short" not in said.err
    monkeypatch.setenv(PASSWORD_VARIABLE, PASSWORD)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(TrackingUriError, match=r"pip install 'latentune\[auth\]'"):
        serve_ui(tmp_path, "0.0.0.0")  # noqa: S104 - refused


def test_a10_with_a_password_mlflow_asks_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(SETTINGS_VARIABLE, raising=False)
    monkeypatch.setenv(PASSWORD_VARIABLE, PASSWORD)
    command, environment = ui_command(tmp_path, "0.0.0.0", 5000)  # noqa: S104 - not started
    assert command[command.index("--app-name") + 1] == "basic-auth"
    hosts = command[command.index("--allowed-hosts") + 1].split(",")
    assert "localhost" in hosts
    assert not {"*", "0.0.0.0", "10.*", "192.168.*"} & set(hosts)  # noqa: S104 - not there
    assert PASSWORD not in " ".join(command)  # `ps` shows those
    assert environment[PASSWORD_VARIABLE] == PASSWORD
    settings = Path(environment[SETTINGS_VARIABLE])
    assert mode(settings) == 0o600
    assert PASSWORD not in settings.read_text()
    assert "NO_PERMISSIONS" in settings.read_text()
    assert len(environment["MLFLOW_FLASK_SERVER_SECRET_KEY"]) == 64
    near, _ = ui_command(tmp_path, "127.0.0.1", 5000)
    assert "--app-name" not in near


@pytest.mark.slow
def test_a10_an_open_ui_answers_only_those_who_know_the_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import base64
    import threading

    pytest.importorskip("flask_wtf")
    monkeypatch.delenv(SETTINGS_VARIABLE, raising=False)
    monkeypatch.setenv(PASSWORD_VARIABLE, PASSWORD)
    found: dict[str, int] = {}
    port = free_port()

    def ask(url: str) -> None:
        path = f"{url}/api/2.0/mlflow/experiments/search?max_results=1"
        known = base64.b64encode(f"admin:{PASSWORD}".encode()).decode()
        wrong = base64.b64encode(b"admin:password1234").decode()
        found["nobody"] = status(path)
        found["wrong"] = status(path, Authorization=f"Basic {wrong}")
        found["admin"] = status(path, Authorization=f"Basic {known}")
        found["evil"] = status(path, Authorization=f"Basic {known}", Host="evil.example")
        raise KeyboardInterrupt  # how a person closes it

    assert threading.current_thread() is threading.main_thread()
    serve_ui(tmp_path, "0.0.0.0", port, on_ready=ask)  # noqa: S104 - with a password
    assert found == {"nobody": 401, "wrong": 401, "admin": 200, "evil": 403}
    assert PASSWORD not in (tmp_path / "ui.log").read_text()


@pytest.mark.slow
def test_a10_mlflow_listens_on_this_machine_alone(mlflow_server: tuple[str, int]) -> None:
    found = listeners(psutil.Process(mlflow_server[1]))
    assert found
    assert [address for address in found if not is_loopback(address)] == []


# --- A17: whose folder it is


@pytest.fixture
def begun(terminal: Terminal) -> Terminal:
    abandoned_search(terminal.home)
    return terminal


VERBS = [("status", "tiny"), ("report", "tiny"), ("confirm", "tiny"), ("rm", "tiny", "--yes"),
         ("extend", "tiny", "--trials", "1"), ("stop", "tiny"), ("rerun", "tiny", "--trial", "0"),
         ("pull", "tiny", "--to", "x")]  # fmt: skip


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
def test_a17_a_folder_that_everybody_may_write_is_not_gone_on_with(
    begun: Terminal, verb: tuple[str, ...]
) -> None:
    folder = begun.home / "searches" / "tiny"
    folder.chmod(0o777)
    said = begun(*verb)
    assert (said.code, said.out) == (2, "")
    assert f"{folder} can be written by every user of this machine (mode 0777)" in said.err
    assert f"chmod o-w {folder}" in said.err
    assert folder.exists()


PARTS = ["", "searches", "searches/tiny", "searches/tiny/config.yaml", "searches/tiny/study.db",
         "searches/tiny/storage.json", "searches/tiny/events.jsonl"]  # fmt: skip


@pytest.mark.parametrize("part", PARTS)
def test_a17_nor_is_a_stranger_s(
    begun: Terminal, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = begun.home / part
    if not path.exists():
        path.touch()
    if os.geteuid() == 0:
        os.chown(path, STRANGER, -1)
        words = f"{path} belongs to user {STRANGER}, and you are user 0"
    else:
        monkeypatch.setattr(os, "geteuid", lambda: STRANGER)
        words = f"{begun.home} belongs to user"
    config = load_search(begun.file(search_config().to_yaml()))
    with pytest.raises(ForeignFolderError) as caught:
        run(config, home=begun.home)
    assert words in str(caught.value)
    said = begun("list", "--json")
    assert said.code == 0
    assert '"unreadable"' in said.out


def test_a17_one_s_own_and_root_s_and_sticky_folders_are_fine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sticky = tmp_path / "shared"
    sticky.mkdir()
    sticky.chmod(0o1777)
    check_ownership(tmp_path, sticky, tmp_path / "missing", Path("/"))
    monkeypatch.delattr(os, "geteuid")
    check_ownership(tmp_path, sticky)


def test_a17_a_new_search_says_nothing_of_owners(terminal: Terminal) -> None:
    said = terminal("run", terminal.file(GOOD | {"budget": {"trials": 0}}))
    assert "belongs to" not in said.err
