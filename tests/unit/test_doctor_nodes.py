"""The doctor on a cluster: how it gets in, and what it makes of folders, GPUs and clocks there."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.exceptions import RayTaskError, WorkerCrashedError

from orchestrator.doctor import checks, cluster_checks, connection, facts
from orchestrator.doctor.cluster_checks import Visit, node_findings, visit, wait_for_nodes
from orchestrator.doctor.connection import connected, host_and_port, wait_for_port
from orchestrator.doctor.facts import Facts, Folder, Gpu, gpus_here, look_at, why_unwritable
from orchestrator.engines.placement import Node
from orchestrator.errors import ClusterError
from tests.unit.test_doctor import CLIENT, NODE, outcome

# The way in


def test_where_nothing_answers_ray_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: object) -> None:
        raise AssertionError("it would try for over ten minutes")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")  # the port that discards
    for address in ("127.0.0.1:9", "ray://127.0.0.1:9", "auto"):
        with pytest.raises(ClusterError, match=r"nothing answers at .*:9"), connected(address):
            pass
    for address in ("head", "head:abc", "ray://head", "head.invalid:6379"):
        with pytest.raises(ClusterError), connected(address):
            pass


def test_ray_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str | None] = []

    def init(**_: object) -> None:
        told.append(os.environ.get("RAY_gcs_server_port_wait_time_s"))
        raise ConnectionError("Failed to connect to it\nTraceback")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(connection, "wait_for_port", lambda *_: None)
    with pytest.raises(ClusterError, match=r"^Failed to connect to it$"), connected("h:1"):
        pass
    assert told == ["1"]
    assert "RAY_gcs_server_port_wait_time_s" not in os.environ


@pytest.mark.slow
def test_a_port_that_says_nothing() -> None:
    """Measured: 40 s, for Ray's own waiting."""
    look = (
        "from orchestrator.doctor.connection import connected\n"
        "import sys\n"
        "with connected(sys.argv[1]): pass"
    )
    with socket.create_server(("0.0.0.0", 0)) as server:  # noqa: S104 - Ray asks by the host's name
        command = [sys.executable, "-c", look, f"127.0.0.1:{server.getsockname()[1]}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    assert "ClusterError: Failed to connect to Ray cluster" in done.stderr


def test_a_port_is_waited_for_until_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    def connect(address: tuple[str, int], timeout: float) -> socket.socket:
        if clock[0] < 20:
            raise ConnectionRefusedError(111, "refused")
        return socket.socket()

    monkeypatch.setattr(socket, "create_connection", connect)
    wait_for_port("head", 6379, 30.0, lambda: clock[0], sleep)
    assert clock == [20.0]
    clock[0] = 0.0
    with pytest.raises(ClusterError, match=r"head:6379 \(refused\)"):
        wait_for_port("head", 6379, 10.0, lambda: clock[0], sleep)
    assert clock == [10.0]


def test_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    assert host_and_port("10.0.0.1:6379") == ("10.0.0.1", 6379)
    assert host_and_port("ray://head:10001") == ("head", 10001)


def test_it_waits_for_nodes_until_the_deadline() -> None:
    clock = [0.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    def nodes() -> list[Node]:
        return [Node(str(n), str(n), 1, 0) for n in range(1 + int(clock[0] // 10))]

    found, waited = wait_for_nodes(nodes, 3, 60.0, lambda: clock[0], sleep)
    assert (len(found), waited) == (3, 20.0)
    assert outcome(checks.check_joined(len(found), 3, waited)) == "ok"
    found, waited = wait_for_nodes(nodes, 9, 30.0, lambda: clock[0], sleep)
    assert waited == 30.0
    told = checks.check_joined(len(found), 9, waited)
    assert outcome(told) == "failed"
    assert f"{len(found)} of 9" in told.detail
    for problem in (None, "no module named x"):
        assert outcome(checks.check_answer("w2", problem)) == "failed"


# What nodes say


@dataclass
class Answers:
    """A Ray whose tasks answer at set moments of a clock that passes as it waits.

    Args:
        tasks: by node's name, and kind, what is answered and when; nothing for those that never do.
    """

    tasks: dict[tuple[str, str], tuple[float, Any]]
    now: float = 0.0
    began: float = 1000.0
    asked: list[tuple[str, str]] = field(default_factory=list)

    def wait(
        self, calls: list[tuple[str, str]], timeout: float
    ) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        self.asked = self.asked or list(calls)
        due = min((self.tasks[c][0] for c in calls if c in self.tasks), default=float("inf"))
        if due > self.now + timeout:
            self.now += timeout
            return [], calls
        self.now = max(due, self.now)
        come = [c for c in calls if c in self.tasks and self.tasks[c][0] <= self.now]
        return come, [c for c in calls if c not in come]

    def get(self, call: tuple[str, str], timeout: float | None = None) -> Any:
        answer = self.tasks[call][1]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def visited(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[list[Visit], Answers]]:
    """Visit nodes that answer so."""

    def of(
        nodes: list[Node], tasks: dict[tuple[str, str], tuple[float, Any]]
    ) -> tuple[list[Visit], Answers]:
        answers = Answers(tasks)
        monkeypatch.setattr(cluster_checks, "ray", answers)
        monkeypatch.setattr(cluster_checks, "_ask", lambda node, _: (node.name, "facts"))
        monkeypatch.setattr(cluster_checks, "_ask_gpus", lambda node: (node.name, "gpus"))
        monkeypatch.setattr(time, "time", lambda: answers.began + answers.now)
        monkeypatch.setattr(time, "monotonic", lambda: answers.now)
        return visit(nodes, "bundled"), answers

    return of


def test_a_silent_node_hides_no_clock(
    visited: Callable[..., tuple[list[Visit], Answers]],
) -> None:
    nodes = [Node(name, name, 4, 0) for name in ("a", "b", "c")]
    ahead = replace(NODE, name="b", time=1000.0 + 1 + 62)  # after a second, 62 ahead
    visits, answers = visited(nodes, {("b", "facts"): (1.0, ahead), ("c", "facts"): (3.0, NODE)})
    assert answers.now == 120.0  # for the silent one
    assert [(one.node.name, one.facts, one.ended) for one in visits] == [
        ("a", None, 0.0), ("b", ahead, 1001.0), ("c", NODE, 1003.0),
    ]  # fmt: skip
    found = node_findings(CLIENT, visits[1], "bundled")
    assert [outcome(one) for one in found if one.check == "clock"] == ["failed"]
    assert node_findings(CLIENT, visits[0], "bundled") == []


def test_a_node_that_answers_with_an_error(
    visited: Callable[..., tuple[list[Visit], Answers]],
) -> None:
    nodes = [Node(name, name, 4, 0) for name in ("a", "b")]
    cause = TypeError("unexpected keyword\nargument")
    stale = RayTaskError("facts_of", "traceback", cause)  # type: ignore[no-untyped-call]
    visits, _ = visited(
        nodes, {("a", "facts"): (1.0, stale), ("b", "facts"): (1.0, WorkerCrashedError())}
    )
    assert [one.problem for one in visits] == ["unexpected keyword", None]


def test_all_free_gpus_of_a_node_are_tried(
    visited: Callable[..., tuple[list[Visit], Answers]],
) -> None:
    nodes = [Node("a", "a", 8, 4, free_gpus=3.0), Node("b", "b", 8, 2, free_gpus=0.5)]
    gpus = (Gpu(name="0", error=1e-4), Gpu(name="2", problem="ECC"), Gpu(name="3", error=0.5))
    visits, answers = visited(
        nodes,
        {
            ("a", "facts"): (1.0, NODE),
            ("b", "facts"): (1.0, NODE),
            ("a", "gpus"): (5.0, gpus),
        },
    )
    assert answers.asked == [("a", "facts"), ("a", "gpus"), ("b", "facts")]
    assert [one.gpus for one in visits] == [gpus, None]
    found = [
        (outcome(one), one.detail)
        for of in visits
        for one in node_findings(CLIENT, of, "bundled")
        if one.check == "gpu"
    ]
    assert found == [
        ("failed", "GPU 2: ECC; GPU 3: a product of matrices is off by 0.5"),
        ("skipped", "all 2 are in use"),
    ]


GOOD = Gpu(name="0", error=1e-4)


@pytest.mark.parametrize(
    ("promised", "claimed", "gpus", "expected"),
    [
        (0, 0, None, "skipped"),
        (2, 0, None, "skipped"),
        (2, 2, None, "warning"),
        (2, 2, (), "failed"),
        (2, 2, (GOOD,), "failed"),
        (2, 2, (GOOD, GOOD), "ok"),
        (4, 2, (GOOD, GOOD), "ok"),
        (1, 1, (replace(GOOD, error=float("nan")),), "failed"),
        (1, 1, (Gpu(name="0", problem="CUDA error: ECC"),), "failed"),
    ],
)
def test_gpus_of_a_node(
    promised: int, claimed: int, gpus: tuple[Gpu, ...] | None, expected: str
) -> None:
    found = checks.check_node_gpus("w1", promised, claimed, gpus)
    assert outcome(found) == expected
    assert ("2 more are in use" in found.detail) == (promised == 4)


def test_gpus_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(facts, "_multiply", lambda index: (1e-4, None) if index else (None, "x"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")  # as Ray gives them
    assert gpus_here() == (Gpu(name="5", problem="x"), Gpu(name="7", error=1e-4))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert [gpu.name for gpu in gpus_here()] == ["0", "1"]
    assert outcome(checks.check_gpus("client", gpus_here())) == "failed"
    assert outcome(checks.check_gpus("client", ())) == "skipped"


def test_folders_and_disks(tmp_path: Path) -> None:
    assert why_unwritable(tmp_path / "not" / "yet") is None
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    assert look_at(tmp_path / "file" / "x", "HF_HOME").problem is not None
    assert look_at(tmp_path / "file" / "x", "HF_HOME", is_written=False).problem is None
    assert look_at(tmp_path / "not" / "yet", "HF_HOME").free_bytes > 0

    home = Folder(path="/a", variable="LATENTUNE_HOME", disk=1, free_bytes=50 * 2**30)
    cache = Folder(path="/b", variable="XDG_CACHE_HOME", disk=1, free_bytes=50 * 2**30)
    models = Folder(
        path="/c", variable="HF_HOME", disk=2, free_bytes=2**29, problem="read-only file system"
    )
    node = replace(NODE, folders=(home, cache, models))
    assert [outcome(one) for one in checks.check_folders(node)] == ["ok", "ok", "failed"]
    found = list(checks.check_disks(node))
    assert [outcome(one) for one in found] == ["ok", "failed"]  # one per disk
    assert found[1].remedy is not None and "HF_HOME" in found[1].remedy
    some = replace(models, free_bytes=5 * 2**30)
    assert [outcome(one) for one in checks.check_disks(replace(NODE, folders=(some,)))] == [
        "warning"
    ]


def test_a_nodes_folders_are_those_that_its_engines_use(tmp_path: Path) -> None:
    """As its environment tells: in a process of its own, for Hugging Face reads it once."""
    look = (
        "from orchestrator.doctor.facts import engine_folders; print(*engine_folders(), sep='\\n')"
    )
    told = {"XDG_CACHE_HOME": str(tmp_path / "x"), "HF_HOME": str(tmp_path / "file" / "h")}
    (tmp_path / "file").touch()

    def folders(**more: str) -> list[str]:
        environment = {**os.environ, **told, **more}
        done = subprocess.run(
            [sys.executable, "-c", look], env=environment, capture_output=True, text=True,
            timeout=120, check=True,
        )  # fmt: skip
        return done.stdout.splitlines()

    cache, models = folders(HF_HUB_OFFLINE="0")
    assert f"path='{tmp_path / 'x' / 'latentune'}'" in cache and "problem=None" in cache
    assert f"path='{tmp_path / 'file' / 'h' / 'hub'}'" in models and "problem=None" not in models
    assert "problem=None, is_written=False" in folders(HF_HUB_OFFLINE="1")[1]


def test_a_node_is_looked_at_whole() -> None:
    node = Node("id", "w1", 4, 1, free_gpus=0.0)
    look = Folder(path="/a", variable="HF_HOME", free_bytes=2**40)
    said: Facts = replace(NODE, time=1000.2, folders=(look,))
    seen = Visit(node=node, began=1000.0, ended=1000.4, facts=said)
    found = node_findings(CLIENT, seen, "bundled")
    assert {one.check for one in found} == {
        "versions", "clock", "folders", "disk", "gpu", "model",
    }  # fmt: skip
    assert all(one.where == "w1" and one.outcome in ("ok", "skipped") for one in found)
