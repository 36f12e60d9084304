"""The way of docs/cluster.md, on hosts of this machine: raise, submit, lose, join, pull, tear down.

The tests stand in the order of that way, and each goes on where the one before has ended.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.engines.roster import ROSTER, Roster
from orchestrator.manifest import ARTIFACT_FILES
from orchestrator.yaml_source import dump_yaml
from tests.cluster.hosts import Host, a_world, wait_for, why_not
from tests.cluster.raised import (
    DASHBOARD,
    HEAD_IP,
    HOME,
    MLFLOW,
    WORKER_IPS,
    Raised,
    raise_hosts,
    tokens,
)
from tests.faults.aftermath import Scores, check_scores
from tests.integration.small_search import environment, scratch_folder

MISSING = why_not()
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(590),
    pytest.mark.skipif(MISSING is not None, reason=f"hosts cannot be made here: {MISSING}"),
]
JOBS = f"http://127.0.0.1:{DASHBOARD}"
SERVER = f"http://127.0.0.1:{MLFLOW}"
NAME = "far-away"
FOLDER = f"{HOME}/latentune/home/searches/{NAME}"  # at the head
ROUNDING = 1e-3  # of 800 steps beside other neighbours, on other engines
SEARCH: dict[str, Any] = {
    "name": NAME,
    "task": {
        "kind": "generation", "train_lengths": [1, 2], "val_ood_lengths": [3],
        "test_ood_lengths": [4], "train_rows": 32, "val_rows": 8, "test_rows": 2,
    },
    "base_model": {"path": "bundled", "device": "cpu"},
    "space": {
        "axes": {
            "strategy": {"triggers": {"start": {"kind": "start", "m": {"choice": [1, 2, 4]}}}},
            "optim": {"lr": {"float": {"low": 0.01, "high": 0.05}}, "batch_rows": 8},
        },
        "baselines": False,
    },
    "budget": {"trials": 12, "steps": 800},
    "sampler": {"kind": "random"},
    # More start-up trials than there are: it makes trials report, and never cuts one.
    "stopping": {"kind": "median", "startup_trials": 1000, "min_steps": 40, "factor": 3},
    "engine": {"concurrent_trials": 2, "threads": 1, "count": 3},
    "confirm": {"enabled": False},
    "tracking": {"experiment": "far", "report": False, "on_end": ["touch", "ended-at-the-head"]},
}  # fmt: skip


@pytest.fixture(scope="module")
def raised(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Raised]:
    """A head and two workers with Ray, a third worker that is off, and a client with a tunnel."""
    folder = tmp_path_factory.mktemp("hosts")
    with a_world(folder) as world:
        hosts = raise_hosts(world, folder)
        hosts.up()
        wait_for(lambda: len(hosts.alive()) == 3, "both workers", 120)
        hosts.tunnel()
        yield hosts


def test_hosts_see_none_but_their_own(raised: Raised) -> None:
    """`ray stop`, which ends all that it can see, must not see the Ray of anybody else."""
    here = os.readlink("/proc/self/ns/pid")
    for host in (raised.head, *raised.workers, raised.client):
        assert host.run("readlink", "/proc/self/ns/pid").stdout.strip() != here
        shown = host.run("ps", "-eo", "args=").stdout
        assert "-m pytest" not in shown
        assert int(host.run("sh", "-c", "echo $$").stdout) < os.getpid()
    rays = [sum("raylet/raylet" in line for line in h.processes()) for h in hosts_with_ray(raised)]
    assert rays == [1, 1, 1]
    assert not [line for line in raised.client.processes() if "raylet" in line]


def hosts_with_ray(raised: Raised) -> list[Host]:
    return [raised.head, *raised.workers[:2]]


def test_strangers_stay_out(raised: Raised, tmp_path: Path) -> None:
    token = tokens(raised)[0]
    jobs = f"{JOBS}/api/jobs/"
    assert raised.status(jobs) == 401
    assert raised.status(jobs, "-H", f"Authorization: Bearer {'0' * 64}") == 403
    assert raised.status(jobs, "-H", f"Authorization: Bearer {token}") == 200
    assert raised.status(f"{SERVER}/api/2.0/mlflow/users/current") == 401
    assert raised.status(f"{SERVER}/", "-H", "Host: evil.example") == 403
    for port in (DASHBOARD, MLFLOW):  # nor by the head's own address
        assert raised.status(f"http://{HEAD_IP}:{port}/") == 0

    search = tmp_path / "search.yaml"
    search.write_text(dump_yaml(SEARCH))
    wrong = tmp_path / "wrong"
    wrong.write_text("0" * 64)
    wrong.chmod(0o600)
    for path, words in ((tmp_path / "none", "401"), (wrong, "403")):
        told = {"RAY_AUTH_TOKEN_PATH": str(path), "HOME": str(tmp_path)}
        done = raised.latentune("submit", str(search), "--address", JOBS, env=told, check=False)
        assert done.returncode == 2, done.stderr
        assert words in done.stderr
        assert "Traceback" not in done.stderr


def status(raised: Raised) -> dict[str, Any]:
    done = raised.latentune("jobs", "status", NAME, "--address", JOBS, "--json")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def engines(raised: Raised) -> dict[str, str]:
    """The live engines by name, each with its host's address."""
    listed = {}
    for kind in ("actors", "nodes"):
        text = raised.on_head(f"ray list {kind} --format json --limit 1000", check=False)
        listed[kind] = json.loads(text[text.find("[") :]) if "[" in text else []
    places = {node["node_id"]: node["node_ip"] for node in listed["nodes"]}
    return {
        actor["name"]: places[actor["node_id"]]
        for actor in listed["actors"]
        if actor["name"].startswith("engine/") and actor["state"] == "ALIVE"
    }


def trials_on(raised: Raised, ip: str) -> int:
    """How many trials the engines of this host have."""
    roster = raised.head.run("cat", f"{FOLDER}/{ROSTER}", check=False).stdout
    if not roster:
        return 0
    at = engines(raised)
    named = Roster.model_validate_json(roster).engines
    return sum(one.trials for one in named if at.get(one.name) == ip)


def is_over(raised: Raised) -> bool:
    return status(raised)["state"] not in ("waiting", "running")


def reports(raised: Raised) -> int:
    found = raised.head.run(
        "grep", "-c", '"type":"trial_report"', f"{FOLDER}/events.jsonl", check=False,
    )  # fmt: skip
    return int(found.stdout or 0)


def test_a_search_outlives_one_worker_and_uses_another(raised: Raised, tmp_path: Path) -> None:
    search = tmp_path / "search.yaml"
    search.write_text(dump_yaml(SEARCH))
    raised.latentune("submit", str(search), "--address", JOBS)
    first_two = set(WORKER_IPS[:2])
    wait_for(
        lambda: first_two <= set(engines(raised).values()) and reports(raised),
        "an engine at work on each worker", 240,
    )  # fmt: skip
    assert_no_secret_is_shown(raised)

    lost = raised.workers[0]
    lost.lose()
    raised.workers[2].listen(raised.key)  # the late one
    wait_for(lambda: WORKER_IPS[2] in raised.alive(), "the late worker", 120)
    wait_for(lambda: lost.ip not in raised.alive(), "the lost one's end", 60)
    seen = set[str]()

    def looked() -> set[str]:
        if trials_on(raised, WORKER_IPS[2]):
            seen.add("trials")
        elif is_over(raised):
            seen.add("the end")
        return seen

    wait_for(looked, "a trial on the late one", 120)
    assert seen == {"trials"}, "the late worker had no trial before the end: give it more steps"
    wait_for(lambda: is_over(raised), "the search's end", 240)
    job = status(raised)
    assert job["state"] == "complete", job
    trials = job["result"]["trials"]
    assert {trial["status"] for trial in trials} == {"complete"}
    raised.head.run("test", "-e", f"{FOLDER}/ended-at-the-head")


def scores(result: dict[str, Any]) -> Scores:
    """What each configuration reached."""
    trials = result["trials"]
    assert len(trials) == SEARCH["budget"]["trials"]
    return {json.dumps(one["params"], sort_keys=True): one["metrics"] for one in trials}


def test_one_machine_finds_the_same(raised: Raised, tmp_path: Path) -> None:
    """`latentune run` of the same file here: the same configurations, to rounding their scores."""
    search = tmp_path / "search.yaml"
    search.write_text(dump_yaml(SEARCH))
    on_the_cluster = status(raised)["result"]
    with scratch_folder() as scratch:
        told = {**os.environ, **environment(scratch), "LATENTUNE_HOME": str(tmp_path / "home")}
        code = "from orchestrator.cli import main; main()"
        for arguments in (("run", str(search)), ("status", NAME, "--json")):
            done = subprocess.run(
                [sys.executable, "-c", code, *arguments],
                cwd=tmp_path, env=told, capture_output=True, text=True, timeout=280, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
    check_scores(scores(on_the_cluster), scores(json.loads(done.stdout)), rounding=ROUNDING)


def test_what_was_chosen_is_pulled_from_afar(raised: Raised, tmp_path: Path) -> None:
    """Through MLflow over HTTP, as a person whom the server knows."""
    add = "python -m orchestrator.service user ann --to ~/ann --may-choose"
    raised.ray("exec", str(raised.file), add)
    raised.client.run("mkdir", "-p", f"{HOME}/.mlflow")
    raised.ray("rsync-down", str(raised.file), f"{HOME}/ann", f"{HOME}/.mlflow/credentials")
    raised.client.run("chmod", "600", f"{HOME}/.mlflow/credentials")

    to, elsewhere = tmp_path / "latents", {"MLFLOW_TRACKING_URI": SERVER}
    nobody = {**elsewhere, "HOME": str(tmp_path)}
    refused = raised.latentune("pull", NAME, "--to", str(to), env=nobody, check=False)
    assert refused.returncode != 0
    assert not to.exists()

    choose = (
        "import mlflow; client = mlflow.MlflowClient();"
        f"best = client.get_model_version_by_alias('{NAME}', 'candidate');"
        f"client.set_registered_model_alias('{NAME}', 'champion', best.version)"
    )
    python = ("python", "-c", choose)
    raised.client.run(*python, env={**raised.environment, **elsewhere})
    raised.latentune("pull", NAME, "--to", str(to), env=elsewhere)
    assert sorted(path.name for path in to.iterdir()) == sorted(ARTIFACT_FILES)
    assert_no_secret_is_shown(raised)


def assert_no_secret_is_shown(raised: Raised) -> None:
    """In no log, argument, URL or field of MLflow; the token's own files left out."""
    canary = "canary-that-the-look-must-find"
    secrets = [*tokens(raised), canary]
    assert len(secrets) >= 5
    for host in (raised.head, *raised.workers, raised.client):
        if not Path(f"/proc/{host.pid}").exists():
            continue
        arguments = host.run("ps", "-eo", "args=").stdout
        listed = host.own / "secrets-to-look-for"
        listed.write_text("\n".join(secrets))
        listed.chmod(0o600)
        found_out = host.own / "canary.log"
        found_out.write_text(canary)
        searched = f"{HOME}/latentune /tmp/ray {host.own}/started.log {found_out}"
        found = host.run(
            "bash", "-c", f"grep -rlaFf {listed} {searched} --exclude-dir=secrets", check=False
        )
        listed.unlink()
        assert [secret for secret in secrets if secret in arguments] == []
        assert found.stdout.split() == [str(found_out)], f"{host.name}: {found.stdout}"


def test_nothing_is_left(raised: Raised) -> None:
    raised.ray("down", "-y", str(raised.file))
    hosts = [raised.head, *(h for h in raised.workers if Path(f"/proc/{h.pid}").exists())]
    own = ("ray", "mlflow", "orchestrator", "uvicorn", "gcs", "python")

    def left() -> list[str]:
        return [line for h in hosts for line in h.processes() if any(word in line for word in own)]

    try:
        wait_for(lambda: not left(), "an end of everything", 240)  # workers miss the head for 60 s
    except AssertionError:
        pytest.fail("\n".join(left()))
