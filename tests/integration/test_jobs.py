"""Searches on a real head in token mode: submitted, looked after, stopped, killed, gone on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from orchestrator import submit
from orchestrator.config import SearchConfig
from orchestrator.errors import ClusterAccessError, SearchLockedError
from orchestrator.events import Event, read_events
from orchestrator.folders import SearchFolder
from orchestrator.jobs.cluster import open_cluster
from orchestrator.jobs.submitted import SubmittedSearch
from orchestrator.results import SearchResult
from tests.integration.ray_head import TOKEN, RayHead, command_line, ray_head
from tests.integration.small_search import (
    ROOT,
    descendants,
    scratch_folder,
    small_config,
    wait_until,
)

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(600)]
COMMAND = [sys.executable, "-c", "from orchestrator.cli import main; main()"]
WAIT_S = 240.0


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    with scratch_folder() as scratch, ray_head(scratch) as found:
        yield found


@pytest.fixture(autouse=True)
def user(head: RayHead, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The submitting user: the cluster's address and token, and a home of their own."""
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", head.url)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(head.token_file))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("LATENTUNE_HOME", str(tmp_path / "of-the-user"))


def config(base: Path, name: str, **changed: Any) -> SearchConfig:
    return SearchConfig.model_validate(small_config(base, name=name, **changed))


def long_config(base: Path, name: str) -> SearchConfig:
    """One that a test can stop in its midst."""
    budget, stopping = {"trials": 3, "steps": 240}, {"min_steps": 20, "factor": 3}
    return config(base, name, budget=budget, stopping=stopping)


def events(head: RayHead, name: str, *kinds: str) -> list[Event]:
    path = SearchFolder.of(head.home, name).events
    return [event for event in read_events(path) if event.type in kinds] if path.exists() else []


def runs(head: RayHead, name: str) -> bool:
    """Whether a trial has reported, and the search is not over."""
    return bool(events(head, name, "trial_report")) and not events(head, name, "search_ended")


def test_no_token_and_a_wrong_one(
    head: RayHead, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(ClusterAccessError, match=r"^401"):
        submit(config(tiny_folder, "denied"))
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN[::-1])
    with pytest.raises(ClusterAccessError, match=r"^403"):
        submit(config(tiny_folder, "denied"))
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(head.token_file))
    assert "denied" not in [job.name for job in open_cluster().jobs()]


def test_a_stopped_search_goes_on_when_it_is_submitted_again(
    head: RayHead, tiny_folder: Path
) -> None:
    search = long_config(tiny_folder, "stopped")
    first = submit(search)
    wait_until(lambda: runs(head, "stopped"), WAIT_S)
    running = first.status()
    assert running.state == "running"
    assert running.progress is not None and running.progress.trials.total == 3
    with pytest.raises(SearchLockedError, match=r"running .* as latentune-stopped\.1"):
        submit(search)
    stopped = first.stop()
    assert stopped.state == "interrupted"
    assert "running trials save their state" in first.logs()
    assert first.result().state == "interrupted"
    steps = {t.number: t.step for t in first.result().trials}
    assert max(steps.values()) > 0

    second = submit(search)
    assert second.submission_id == "latentune-stopped.2"
    told = list(second.follow())
    assert second.wait(WAIT_S).state == "complete"
    assert any("[3/3]" in line for line in told)
    assert not any(line.startswith("latentune:") for line in told)
    result = second.result()
    check_whole(head, result, trials=3)
    started = [e for e in events(head, "stopped", "trial_started") if e.attempt > 1]
    again = [int(str(event.trial_uid).rpartition("-")[2]) for event in started]
    assert any(steps[number] > 0 for number in again)
    curve_goes_on(head, "stopped")


def test_a_killed_driver_costs_no_trial(head: RayHead, tiny_folder: Path) -> None:
    search = long_config(tiny_folder, "killed")
    first = submit(search)
    wait_until(lambda: runs(head, "killed"), WAIT_S)
    (driver,) = head.processes("orchestrator.jobs.entry")
    os.kill(driver, signal.SIGKILL)
    assert first.wait(WAIT_S).state == "killed"
    second = submit(search)
    assert second.wait(WAIT_S).state == "complete"
    check_whole(head, second.result(), trials=3)


def check_whole(head: RayHead, result: SearchResult, trials: int) -> None:
    """The result is what the cluster has, and every trial has ended once."""
    folder = SearchFolder.of(head.home, result.name)
    assert result == SearchResult.model_validate_json(folder.result.read_text())
    uids = [folder.uid(number) for number in range(trials)]
    assert [trial.uid for trial in result.trials] == uids
    ended = Counter(event.trial_uid for event in events(head, result.name, "trial_ended"))
    assert ended == Counter(uids)


def curve_goes_on(head: RayHead, name: str) -> None:
    """No step was lost or done twice: each curve begins where the last report ended."""
    reached: dict[str | None, int] = {}
    for event in events(head, name, "trial_report"):
        curve = [step for step, _ in event.payload["curve"]]
        before = reached.get(event.trial_uid, 0)
        assert not curve or curve == list(range(before + 1, event.payload["step"] + 1))
        reached[event.trial_uid] = event.payload["step"]


def test_two_searches_share_an_engine(head: RayHead, tiny_folder: Path) -> None:
    """Neither waits for the other's end; each has its own budget and its own trials."""
    names = ("one", "two")
    submitted = [submit(long_config(tiny_folder, name)) for name in names]
    wait_until(lambda: all(runs(head, name) for name in names), WAIT_S)
    assert engines(head) == 1
    for one in submitted:
        assert one.wait(WAIT_S).state == "complete"
        check_whole(head, one.result(), trials=3)
    spans = {name: [e.time for e in events(head, name, "trial_report")] for name in names}
    assert max(times[0] for times in spans.values()) < min(times[-1] for times in spans.values())
    wait_until(lambda: engines(head) == 0)


def engines(head: RayHead) -> int:
    """How many engines are alive, by Ray's own account."""
    answer = requests.get(
        f"{head.url}/api/v0/actors",
        headers={"Authorization": f"Bearer {TOKEN}"},
        timeout=30,
    )
    actors = answer.json()["data"]["result"]["result"]
    return sum(a["class_name"] == "EngineActor" and a["state"] == "ALIVE" for a in actors)


def test_the_head_refuses_what_it_alone_can_see(head: RayHead, tiny_folder: Path) -> None:
    submit(config(tiny_folder, "taken")).wait(WAIT_S)
    again = submit(config(tiny_folder, "taken", data={"seed": 7}))
    job = again.wait(WAIT_S)
    assert job.state == "refused"
    assert "data.seed: 0 -> 7" in str(job.message)


def test_the_commands(head: RayHead, tiny_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "search.yaml"
    file.write_text(config(tiny_folder, "commanded").to_yaml())
    (tmp_path / "of-the-user").mkdir()

    def call(*arguments: str) -> dict[str, Any]:
        done = subprocess.run(
            [*COMMAND, *arguments, "--json"],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            cwd=tmp_path, capture_output=True, text=True, timeout=WAIT_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert TOKEN not in done.stdout + done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    job = call("submit", str(file), "--wait")
    assert job["state"] == "complete"
    assert job == call("jobs", "status", "commanded")
    assert "commanded" in [one["name"] for one in call("jobs", "list")["jobs"]]
    assert "the search is complete" in call("jobs", "logs", "commanded")["log"]


def test_the_token_is_nowhere(head: RayHead, tiny_folder: Path) -> None:
    """After all of the above, and while a search runs."""
    submitted = submit(long_config(tiny_folder, "searched"))
    wait_until(lambda: runs(head, "searched"), WAIT_S)
    assert not [pid for pid in descendants(head.pid) if TOKEN in command_line(pid)]
    submitted.stop()
    job = SubmittedSearch.find("searched").status()
    assert TOKEN not in job.model_dump_json() + submitted.logs()
    files = [path for path in head.scratch.rglob("*") if path.is_file() and path != head.token_file]
    assert len(files) > 50
    assert (head.home / "mlflow.db") in files
    assert [path for path in files if TOKEN.encode() in path.read_bytes()] == []
