import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.tracking import default_uri, read_cursor, start_shipper, wait_shipped
from tests.integration.tracked_search import NAME, OBJECTIVE, Stored, TrackedSearch, tracked_search


@pytest.fixture
def search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TrackedSearch]:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with tracked_search(tmp_path / "home") as search:
        yield search


def test_a_whole_story_arrives_and_a_replay_from_anywhere_changes_nothing(
    search: TrackedSearch,
) -> None:
    last = search.tell_all()
    assert search.ship()
    assert read_cursor(search.folder).next_seq == last + 1
    stored = Stored(search.uri)
    _check_runs(stored)
    _check_points(stored)
    _check_artifacts(stored, search.home)
    _check_versions(stored)
    before = stored.everything()
    for next_seq in (0, 1, 2, 7, 13, last - 5, last):
        search.set_back(next_seq)
        assert search.ship()
        assert Stored(search.uri).everything() == before, f"after a replay from {next_seq}"


def _check_runs(stored: Stored) -> None:
    assert stored.count == 5
    seen = {
        uid: (run.info.run_name, run.info.status, run.data.tags["state"])
        for uid, run in stored.runs.items()
    }
    assert seen == {
        "parent": (NAME, "FINISHED", "complete"),
        f"{NAME}-0": ("start4", "FINISHED", "complete"),
        f"{NAME}-1": ("start4", "KILLED", "pruned"),
        f"{NAME}-2": ("start4", "FAILED", "failed"),
        f"{NAME}-3": ("start4", "FINISHED", "complete"),
    }
    parent, resumed = stored.runs["parent"], stored.runs[f"{NAME}-3"]
    assert parent.data.tags["version.torch"] == "2.13.0"
    assert resumed.data.tags["attempt"] == "2"
    assert resumed.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert resumed.data.params == {
        "strategy": "start4",
        "optim.lr": "0.02",
        "strategy.triggers.start.m": "4",
    }


def _check_points(stored: Stored) -> None:
    assert stored.points(f"{NAME}-3", OBJECTIVE) == [(20, 0.2), (60, 0.9)]
    assert [step for step, _ in stored.points(f"{NAME}-3", "train/loss")] == [
        18,
        19,
        20,
        58,
        59,
        60,
    ]
    assert stored.points("parent", f"best/{OBJECTIVE}") == [(1, 0.7), (2, 0.7), (3, 0.7), (4, 0.9)]


def _check_artifacts(stored: Stored, home: Path) -> None:
    assert stored.experiment.artifact_location == (home / "mlartifacts").as_uri()
    assert sorted(stored.files("parent")) == ["result.json", "search.yaml"]
    assert stored.files(f"{NAME}-2") == ["config.json"]
    assert sorted(stored.files(f"{NAME}-3")) == ["config.json", "latents"]
    (folder,) = stored.files(f"{NAME}-3", "latents")
    assert sorted(Path(path).name for path in stored.files(f"{NAME}-3", folder)) == [
        "README.md",
        "latent_config.json",
        "latents.safetensors",
    ]


def _check_versions(stored: Stored) -> None:
    _, _, versions, aliases = stored.everything()
    assert aliases == {"candidate": "2"}
    assert {tags["trial_uid"] for _, _, tags in versions} == {f"{NAME}-0", f"{NAME}-3"}


def test_what_mlflow_refuses_costs_itself_alone(search: TrackedSearch) -> None:
    """A log may hold what a later MLflow, or an earlier check of ours, would not take."""
    search.start()
    long = "strategy.triggers." + "a" * 240 + ".m"
    params = {"optim.lr": 0.1, long: 4, "seed": 7}
    payload = {"number": 0, "name": "start4", "params": params, "config": {"seed": 1}}
    uid = f"{NAME}-0"
    search.log.append("trial_started", payload, uid, 1)
    search.report(uid, 20, 0.1)
    search.report(uid, 60, 0.9)
    search.end_trial(uid, "complete", 60, 0.9)
    search.end()
    assert search.ship()
    stored = Stored(search.uri)
    assert stored.points(uid, OBJECTIVE) == [(20, 0.1), (60, 0.9)]
    assert stored.runs[uid].data.params == {"strategy": "start4", "optim.lr": "0.1", "seed": "7"}
    assert stored.runs[uid].data.tags["state"] == "complete"


def test_an_interrupted_search_shows_nothing_running_and_runs_again(search: TrackedSearch) -> None:
    search.start()
    uid = search.start_trial(0)
    search.end("interrupted")
    assert search.ship()
    stored = Stored(search.uri)
    assert {run.info.status for run in stored.runs.values()} == {"KILLED"}
    search.start()
    search.start_trial(0, attempt=2)
    assert search.ship(until_ended=False)
    again = Stored(search.uri)
    assert {run.info.status for run in again.runs.values()} == {"RUNNING"}
    assert again.runs[uid].info.run_id == stored.runs[uid].info.run_id


def test_a_search_that_never_ends_returns_at_the_deadline(search: TrackedSearch) -> None:
    search.start()
    assert not search.ship(deadline_s=5)
    assert read_cursor(search.folder).next_seq == 1


def test_another_store_gets_everything_from_the_start(
    search: TrackedSearch, tmp_path: Path
) -> None:
    search.tell_all()
    assert search.ship()
    search.uri = default_uri(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    search.start()
    search.end()
    assert search.ship()
    _check_runs(Stored(search.uri))


def test_another_search_of_the_same_name_has_runs_of_its_own(
    search: TrackedSearch, tmp_path: Path
) -> None:
    search.tell_all()
    assert search.ship()
    with tracked_search(tmp_path / "second") as second:
        second.uri = search.uri
        second.tell_all()
        assert second.ship()
    assert Stored(search.uri).count == 10


def test_a_changed_folder_is_not_registered_and_stops_nothing(
    search: TrackedSearch, caplog: pytest.LogCaptureFixture
) -> None:
    search.start()
    uid = search.start_trial(0)
    search.end_trial(uid, "complete", 60, 0.5)
    search.nominate(uid)
    search.write_artifact(uid, "tampered")
    search.end()
    assert search.ship()
    stored = Stored(search.uri)
    assert not stored.client.search_model_versions(f"name = '{NAME}'")
    assert stored.runs["parent"].info.status == "FINISHED"
    assert "changed after the trial had ended" in caplog.text


def test_what_was_registered_survives_further_training(search: TrackedSearch) -> None:
    search.start()
    uid = search.start_trial(0)
    search.end_trial(uid, "stopped", 20, 0.5)
    search.nominate(uid)
    assert search.ship(until_ended=False)
    search.start_trial(0, attempt=2)
    search.write_artifact(uid, "trained further")
    search.nominate(uid)
    assert search.ship(until_ended=False)
    _, _, versions, _ = Stored(search.uri).everything()
    assert len({source for _, source, _ in versions}) == 2


@pytest.mark.parametrize("moved", [False, True])
def test_the_alias_leaves_a_champion_that_is_confirmed_no_more(
    search: TrackedSearch, *, moved: bool
) -> None:
    """But where a person has moved it, it is theirs."""
    search.tell_all()
    search.nominate(f"{NAME}-0", "champion")
    search.log.append("confirm_ended", {"state": "confirmed"})
    assert search.ship()
    client = Stored(search.uri).client
    first = client.get_model_version_by_alias(NAME, "champion")
    assert first.tags["trial_uid"] == f"{NAME}-0"
    if moved:
        client.set_registered_model_alias(
            NAME, "champion", client.get_model_version_by_alias(NAME, "candidate").version
        )
    search.log.append("confirm_ended", {"state": "nothing confirmed"})
    assert search.ship()
    aliases = client.get_registered_model(NAME).aliases
    assert ("champion" in aliases) is moved
    assert "candidate" in aliases


def test_the_process_makes_the_store_delivers_and_leaves_at_the_end(search: TrackedSearch) -> None:
    (search.home / "mlflow.db").unlink()
    search.start()
    shipper = start_shipper(search.folder, search.uri, deadline_s=120)
    try:
        assert wait_shipped(search.folder, 0, 60, shipper=shipper)
        assert wait_shipped(search.folder, search.end(), 60, shipper=shipper)
        assert shipper.wait(30) == 0
    finally:
        shipper.kill()
        shipper.wait()
    assert Stored(search.uri).runs["parent"].info.status == "FINISHED"
    assert not wait_shipped(search.folder, 2, 0)


@pytest.mark.faults
def test_a_shipper_whose_starter_died_delivers_and_leaves(search: TrackedSearch) -> None:
    search.start()
    code = f"""
        from pathlib import Path
        from orchestrator.tracking import start_shipper
        shipper = start_shipper(Path({str(search.folder)!r}), {search.uri!r}, deadline_s=120)
        print(shipper.pid, flush=True)
        import os
        os._exit(0)
    """
    started = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    _wait(lambda: not _runs(int(started.stdout)), 60)
    assert read_cursor(search.folder).next_seq == 1


@pytest.mark.faults
def test_killed_at_any_moment_it_delivers_exactly_once(search: TrackedSearch) -> None:
    search.start()
    assert search.ship(until_ended=False)
    last = _many_trials(search, 40)
    kills = sum(_kill_delivering(search, last, wait_s) for wait_s in (0.02, 0.1, 0.3))
    assert kills
    assert search.ship()
    stored = Stored(search.uri)
    assert stored.count == 41
    for number in range(40):
        assert stored.points(f"{NAME}-{number}", OBJECTIVE) == [(20, 0.1), (60, 0.5)]


def _kill_delivering(search: TrackedSearch, last: int, wait_s: float) -> bool:
    """Start a shipper and kill it in the middle of its batch; whether it was still at work."""
    before = read_cursor(search.folder).next_seq
    shipper = start_shipper(search.folder, search.uri, deadline_s=120)
    _wait(lambda: _run_count(search.uri) > 1 or shipper.poll() is not None, 60)
    time.sleep(wait_s)  # where in the batch it dies is the point
    at_work = shipper.poll() is None
    shipper.kill()
    shipper.wait()
    assert read_cursor(search.folder).next_seq in (before, last + 1)
    return at_work


def _many_trials(search: TrackedSearch, count: int) -> int:
    for number in range(count):
        uid = search.start_trial(number)
        search.report(uid, 20, 0.1)
        search.report(uid, 60, 0.5)
        search.end_trial(uid, "complete", 60, 0.5)
    return search.end()


def _run_count(uri: str) -> int:
    return Stored(uri).count


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z" and os.path.exists(f"/proc/{pid}")


def _wait(condition: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
