"""Abuse A7, A8 and A10: who may ask a Ray of ours, and where it listens."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from orchestrator.safety.ray_token import (
    MODE_VARIABLE,
    NODES_VARIABLE,
    PATH_VARIABLE,
    TOKEN_VARIABLE,
    close_token_file,
    keep_ray_at_home,
    secure_local_ray,
    token_path,
)
from tests.abuse.listeners import is_loopback, listeners
from tests.integration.small_search import environment, scratch_folder


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def no_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home in which Ray has no token yet; where it will be."""
    for name in (MODE_VARIABLE, TOKEN_VARIABLE, PATH_VARIABLE, "RAY_ADDRESS", NODES_VARIABLE):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(name, "")  # so that what the code sets is undone
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / ".ray" / "auth_token"


def test_a07_ray_starts_in_token_mode_with_a_token_of_its_owner_alone(no_ray: Path) -> None:
    secure_local_ray()
    assert MODE_VARIABLE not in os.environ  # Ray sets it; A10's test sees it set
    assert token_path() == no_ray
    assert (mode(no_ray), mode(no_ray.parent)) == (0o600, 0o700)
    token = no_ray.read_text()
    assert len(token) == 64
    secure_local_ray()
    assert no_ray.read_text() == token


def test_a07_an_open_token_file_is_closed_and_kept(no_ray: Path) -> None:
    no_ray.parent.mkdir()
    no_ray.write_text("t" * 64)
    no_ray.chmod(0o644)  # as Ray 2.60 writes it
    secure_local_ray()
    assert mode(no_ray) == 0o600
    assert no_ray.read_text() == "t" * 64


def test_a07_what_the_user_has_set_stands(
    no_ray: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "t" * 64)
    secure_local_ray()
    assert not no_ray.exists()
    monkeypatch.delenv(TOKEN_VARIABLE)
    monkeypatch.setenv(PATH_VARIABLE, str(tmp_path / "mine"))
    secure_local_ray()
    assert mode(tmp_path / "mine") == 0o600
    monkeypatch.setenv(MODE_VARIABLE, "disabled")
    close_token_file(tmp_path / "mine")
    secure_local_ray()
    assert "RAY_AUTH_MODE=disabled: anybody who reaches this machine's Ray" in caplog.text


OWN_RAY = """
import json, os, sys
from pathlib import Path
from orchestrator.safety.ray_token import keep_ray_at_home
keep_ray_at_home()
from orchestrator.ray_session import ray_session
with ray_session(Path(sys.argv[1])):
    import ray
    @ray.remote
    class Actor:
        def pid(self):
            return os.getpid()
    actor = Actor.remote()
    ray.get(actor.pid.remote())
    mode = oct(os.stat(os.path.expanduser("~/.ray/auth_token")).st_mode & 0o777)
    address = ray.get_runtime_context().gcs_address
    print(json.dumps({"mode": mode, "auth": os.environ["RAY_AUTH_MODE"], "address": address}))
    sys.stdout.flush()
    sys.stdin.read()
"""
ASK = """
import sys
from orchestrator.safety.ray_token import keep_ray_at_home
keep_ray_at_home()
import ray
ray.init(sys.argv[1], log_to_driver=False, logging_level="ERROR", namespace="stranger")
print("let in:", ray.get(ray.remote(lambda: 42).options(num_cpus=0).remote()))
"""


class OwnRay(NamedTuple):
    """A Ray as a search starts it: its process, its HOME, what it said, and its environment."""

    pid: int
    home: Path
    told: dict[str, str]
    variables: dict[str, str]


@pytest.fixture(scope="module")
def own_ray() -> Iterator[OwnRay]:
    with scratch_folder() as scratch:
        variables = os.environ | environment(scratch)
        for name in (MODE_VARIABLE, TOKEN_VARIABLE, PATH_VARIABLE, NODES_VARIABLE, "RAY_ADDRESS"):
            variables.pop(name, None)
        with subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", OWN_RAY, str(scratch)],
            env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            told = next((one for one in process.stdout if one.startswith("{")), None)
            assert told is not None, "it ended before it began"
            yield OwnRay(process.pid, scratch, json.loads(told), variables)


def asked(ray: OwnRay, **changed: str) -> subprocess.CompletedProcess[str]:
    """What a process in another environment gets from it; refused, Ray would ask again for 20 s."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ASK, ray.told["address"]],
        env=ray.variables | {"RAY_NUM_REDIS_GET_RETRIES": "2"} | changed,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_a07_a_ray_of_ours_answers_those_alone_who_know_its_token(
    own_ray: OwnRay, tmp_path: Path
) -> None:
    without = asked(own_ray, HOME=str(tmp_path), RAY_AUTH_MODE="disabled")
    wrong = asked(own_ray, HOME=str(tmp_path), RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * 64)
    for stranger in (without, wrong):
        assert stranger.returncode != 0
        assert "let in" not in stranger.stdout
        assert "uthenticat" in stranger.stderr, stranger.stderr
    known = asked(own_ray, RAY_AUTH_MODE="token")
    assert "let in: 42" in known.stdout, known.stderr


@pytest.mark.slow
def test_a07_its_token_stands_in_its_own_file_alone(own_ray: OwnRay) -> None:
    """In no log of Ray, and in no command line, which `ps` shows to all."""
    file = own_ray.home / ".ray" / "auth_token"
    token = file.read_text().encode()
    plain = [path for path in own_ray.home.rglob("*") if path.is_file() and path != file]
    assert any("logs" in path.parts for path in plain)
    assert [path for path in plain if token in path.read_bytes()] == []
    process = psutil.Process(own_ray.pid)
    for one in (process, *process.children(recursive=True)):
        assert token.decode() not in " ".join(one.cmdline())


def test_a08_a_local_ray_is_reached_from_this_machine_alone(
    no_ray: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Submission to an open cluster belongs to `latentune submit`; listeners are shown by A10."""
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    keep_ray_at_home()
    assert os.environ.pop(NODES_VARIABLE) == "0"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    keep_ray_at_home()
    assert NODES_VARIABLE not in os.environ


@pytest.mark.slow
def test_a10_a_ray_of_ours_listens_on_this_machine_alone(own_ray: OwnRay) -> None:
    """Every TCP listener of it and of the search's process, an actor in it."""
    found = listeners(psutil.Process(own_ray.pid))
    assert found
    assert [address for address in found if not is_loopback(address)] == []
    assert (own_ray.told["mode"], own_ray.told["auth"]) == ("0o600", "token")


def test_a10_the_check_sees_an_open_listener() -> None:
    with socket.socket() as door:
        door.bind(("0.0.0.0", 0))  # noqa: S104 - what is looked for
        door.listen()
        found = listeners(psutil.Process())
    assert not all(map(is_loopback, found))
