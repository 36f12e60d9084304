"""Searches on a cluster, seen from the client: what is refused, what is sent, what is told."""

from __future__ import annotations

import json
import logging
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import main
from orchestrator.config import SearchConfig, config_differences
from orchestrator.errors import (
    ClusterAccessError,
    ClusterError,
    ConfigError,
    JobError,
    SearchLockedError,
    SearchNotFoundError,
    UploadError,
)
from orchestrator.folders import SearchFolder
from orchestrator.jobs import package
from orchestrator.jobs.access import Access, cluster_url, open_access
from orchestrator.jobs.package import read_submission, unpack, write_package
from orchestrator.jobs.sender import Sender, check_sender, this_sender
from orchestrator.jobs.submission import submit
from orchestrator.jobs.submitted import SubmittedSearch
from orchestrator.yaml_source import dump_yaml, read_yaml
from tests.integration.small_search import small_config
from tests.unit.fake_head import TOKEN, FakeHead, fake_head
from trainable.errors import BadRowsError
from trainable.records.reading import digest_or_none

VARIABLES = (
    "RAY_API_SERVER_ADDRESS", "RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH",
    "RAY_AUTH_MODE",
)  # fmt: skip


@pytest.fixture(autouse=True)
def nobodys_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No token and no address but what a test sets."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("LATENTUNE_HOME", str(tmp_path / "home"))


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHead]:
    """A head that asks for a token, and the token."""
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    with fake_head() as found:
        yield found


@pytest.fixture
def config(tiny_folder: Path) -> SearchConfig:
    return SearchConfig.model_validate(small_config(tiny_folder))


def rows(path: Path, count: int = 12) -> Path:
    lines = [json.dumps({"prompt": f"1{i}#2=", "completion": str(i)}) for i in range(count)]
    path.write_text("\n".join(lines) + "\n")
    return path


def records_config(base: Path, folder: Path, **task: Any) -> SearchConfig:
    """A search on rows of one's own, with a metric of one's own."""
    rows(folder / "rows.jsonl")
    (folder / "own.py").write_text("def f1(answer, reference, prompt):\n    return 1.0\n")
    named = {
        "kind": "records",
        "train": str(folder / "rows.jsonl"),
        "split": {"val": 0.4, "test": 0.2},
        "metrics": [f"{folder / 'own.py'}:f1"],
    }
    changed = {"task": named | task, "stopping": {"kind": "none"}}
    return SearchConfig.model_validate(small_config(base, **changed))


# Access


def test_a_flag_beats_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://c:8265")
    assert cluster_url() == "http://c:8265"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "https://b/")
    assert cluster_url() == "https://b"
    assert cluster_url("http://a:1") == "http://a:1"


@pytest.mark.parametrize("address", ["10.0.0.1:6379", "auto", "ray://h:10001", "http://", "/x"])
def test_what_is_no_jobs_server_is_refused(address: str) -> None:
    with pytest.raises(ClusterError, match=r"write http://HEAD:8265"):
        cluster_url(address)


@pytest.mark.parametrize("address", [f"http://u:{TOKEN}@h:1", f"http://h:1/?token={TOKEN}"])
def test_a_token_in_the_url_is_refused_and_not_repeated(address: str) -> None:
    with pytest.raises(ClusterError) as caught:
        cluster_url(address)
    assert TOKEN not in str(caught.value)


def test_no_address_names_the_variables() -> None:
    with pytest.raises(ClusterError, match="RAY_API_SERVER_ADDRESS or RAY_ADDRESS"):
        cluster_url()


def test_nobody_there(head: FakeHead) -> None:
    with pytest.raises(ClusterError, match="cannot be reached"):
        open_access("http://127.0.0.1:9")  # the port that discards


def test_no_token_is_401(head: FakeHead, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    with pytest.raises(ClusterAccessError, match=r"^401: .*RAY_AUTH_TOKEN"):
        open_access(head.url)


def test_a_wrong_token_is_403_and_not_repeated(
    head: FakeHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "another" * 5)
    with pytest.raises(ClusterAccessError, match=r"^403: ") as caught:
        open_access(head.url)
    assert "another" not in str(caught.value).replace("another cluster", "")


@pytest.mark.parametrize(
    "token", ["short", "two words and more", "line\nbreak-line", "ümläut-here"]
)
def test_what_is_no_token_is_refused_and_not_repeated(
    head: FakeHead, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    with pytest.raises(ClusterAccessError, match="no token") as caught:
        open_access(head.url)
    assert token not in str(caught.value)


def test_the_token_is_read_where_ray_reads_it(
    head: FakeHead,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    default = tmp_path / "user" / ".ray" / "auth_token"
    default.parent.mkdir(parents=True)
    default.write_text(TOKEN + "\n")
    default.chmod(0o600)
    assert open_access(head.url) == Access(head.url, TOKEN)
    assert caplog.text == ""
    elsewhere = tmp_path / "token"
    elsewhere.write_text("another" * 5)
    elsewhere.chmod(0o644)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(elsewhere))
    with pytest.raises(ClusterAccessError, match="403"):
        open_access(head.url)
    assert f"chmod 600 {elsewhere}" in caplog.text


def test_an_open_cluster_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    with fake_head(token=None) as head:
        with pytest.raises(ClusterAccessError, match="--i-accept-open-cluster"):
            open_access(head.url)
        assert open_access(head.url, accept_open_cluster=True) == Access(head.url)
        elsewhere = head.url.replace("127.0.0.1", "0.0.0.0")  # noqa: S104 - the same, not loopback
        with pytest.raises(ClusterAccessError, match="open cluster") as caught:
            open_access(elsewhere, accept_open_cluster=True)
        assert "--i-accept" not in str(caught.value)
    assert all("Authorization" not in headers for _, _, headers, _ in head.requests)


def test_the_token_is_no_part_of_a_representation() -> None:
    assert TOKEN not in repr(Access("http://h:1", TOKEN))


# What is sent


def test_a_search_is_sent_whole(head: FakeHead, config: SearchConfig) -> None:
    submitted = submit(config, address=head.url)
    assert submitted.submission_id == "latentune-small.1"
    (request,) = (json.loads(body) for body in head.sent("POST"))
    assert request["entrypoint"] == "exec python -P -m orchestrator.jobs.entry"
    assert request["metadata"] == {"latentune_search": "small"}
    assert request["runtime_env"]["env_vars"] == {"RAY_JOB_STOP_WAIT_TIME_S": "120"}
    assert "py_modules" not in request["runtime_env"]
    files = head.package()
    assert {"search.yaml", "submission.json"} < set(files)
    assert all(
        name.split("/")[0] in ("search.yaml", "submission.json", "uploads") for name in files
    )


def test_a_head_that_has_just_begun_is_waited_for(head: FakeHead, config: SearchConfig) -> None:
    head.agents_missing = 1
    assert submit(config, address=head.url).submission_id == "latentune-small.1"
    assert len(head.sent("POST")) == 2


def test_the_token_is_in_the_header_alone(
    head: FakeHead, config: SearchConfig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    submitted = submit(config, address=head.url)
    found = (submitted.status().model_dump_json(), repr(submitted), caplog.text, *sys.argv)
    assert not [text for text in found if TOKEN in text]
    for _, path, headers, body in head.requests:
        assert TOKEN not in path
        assert TOKEN.encode() not in body
        assert [name for name, value in headers.items() if TOKEN in value] in (
            [],
            ["Authorization"],
        )
    assert all(TOKEN.encode() not in content for content in head.package().values())


def test_the_token_in_a_search_is_refused(head: FakeHead, config: SearchConfig) -> None:
    secret = config.model_copy(
        update={"tracking": config.tracking.model_copy(update={"experiment": TOKEN})}
    )
    with pytest.raises(ClusterAccessError, match="stands in") as caught:
        submit(secret, address=head.url)
    assert TOKEN not in str(caught.value)
    with pytest.raises(ClusterAccessError, match="stands in"):
        submit(config, address=head.url, runtime_env={"env_vars": {"RAY_AUTH_TOKEN": "x"}})
    assert not head.has_got_anything


def test_a_runtime_environment_is_added_to(
    head: FakeHead, config: SearchConfig, tmp_path: Path
) -> None:
    file = tmp_path / "runtime.yaml"
    file.write_text("uv: [einops==0.8.1]\nenv_vars: {HF_HUB_OFFLINE: '1'}\n")
    submit(config, address=head.url, runtime_env=file)
    (request,) = (json.loads(body) for body in head.sent("POST"))
    assert request["runtime_env"]["uv"]["packages"] == ["einops==0.8.1"]
    assert request["runtime_env"]["env_vars"].keys() == {
        "HF_HUB_OFFLINE",
        "RAY_JOB_STOP_WAIT_TIME_S",
    }


@pytest.mark.parametrize("given", [{"working_dir": "."}, {"py_modules": []}, "- a\n- b\n"])
def test_a_runtime_environment_in_our_way_is_refused(
    head: FakeHead, config: SearchConfig, given: Any, tmp_path: Path
) -> None:
    if isinstance(given, str):
        (tmp_path / "runtime.yaml").write_text(given)
        given = tmp_path / "runtime.yaml"
    with pytest.raises(UploadError, match="the runtime environment"):
        submit(config, address=head.url, runtime_env=given)
    assert not head.requests


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("env_vars: {OMP_NUM_THREADS: 1}\n", "env_vars.OMP_NUM_THREADS of .* is a int"),
        ("env_vars: [RAY_AUTH_TOKEN=hidden]\n", "env_vars of the runtime environment is a list"),
        ("pip: [a]\nuv: [b]\n", "refused by Ray: "),
        ("pip: 3\n", "refused by Ray: "),
        ("pipp: [a]\n", "names pipp, which Ray does not know: expected .*pip"),
        ("3: [a]\n", "names 3, "),
    ],
)
def test_a_wrong_runtime_environment_is_bad_input(
    head: FakeHead,
    config: SearchConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: str,
    told: str,
) -> None:
    file, runtime = tmp_path / "search.yaml", tmp_path / "runtime.yaml"
    file.write_text(config.to_yaml())
    runtime.write_text(text)
    options = ("--address", head.url, "--runtime-env", str(runtime))
    assert call(monkeypatch, "submit", str(file), *options) == 2
    error = capsys.readouterr().err
    assert re.search(told, error) and "hidden" not in error
    assert not head.requests


def test_no_variables_are_none(head: FakeHead, config: SearchConfig) -> None:
    submit(config, address=head.url, runtime_env={"env_vars": None})
    assert len(head.sent("POST")) == 1


def test_a_base_model_is_sent_whole(head: FakeHead, tiny_folder: Path, tmp_path: Path) -> None:
    """Ray would leave out what a `.gitignore` among the files names."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    for name in (".gitignore", ".rayignore", ".git/HEAD"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("*.safetensors\n*.json\n")
    submit(SearchConfig.model_validate(small_config(folder)), address=head.url)
    sent = {Path(name).name for name in head.package() if name.startswith("uploads/")}
    assert sent == {path.name for path in tiny_folder.iterdir()}


def test_this_latentune_is_shipped_when_asked(head: FakeHead, config: SearchConfig) -> None:
    submit(config, address=head.url, ship_code=True)
    (request,) = (json.loads(body) for body in head.sent("POST"))
    assert len(request["runtime_env"]["py_modules"]) == 3
    assert len(head.sent("PUT", "/packages/")) == 4


def test_a_wrong_file_sends_nothing(head: FakeHead, tmp_path: Path) -> None:
    file = tmp_path / "search.yaml"
    file.write_text("name: x\ntask: {kind: generation}\nspaace: quick\nbudget: {trials: 2}\n")
    with pytest.raises(ConfigError, match="spaace"):
        submit(file, address=head.url)
    assert not head.requests


def test_bad_rows_send_nothing(head: FakeHead, tiny_folder: Path, tmp_path: Path) -> None:
    config = records_config(tiny_folder, tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "1", "completion": ""}\n')
    with pytest.raises(BadRowsError):
        submit(config, address=head.url)
    assert not head.has_got_anything


def test_files_that_are_not_here_are_refused_or_the_clusters(
    head: FakeHead, tiny_folder: Path, tmp_path: Path
) -> None:
    config = records_config(tiny_folder, tmp_path, train="/data/rows.jsonl", metrics=[])
    with pytest.raises(UploadError, match=r"task\.train: /data/rows\.jsonl.*--paths-on-cluster"):
        submit(config, address=head.url)
    assert not head.requests
    submit(config, address=head.url, paths_on_cluster=True)
    assert head.package().keys() == {"search.yaml", "submission.json"}
    assert b"/data/rows.jsonl" in head.package()["search.yaml"]


def test_too_much_is_refused_with_the_sizes(
    head: FakeHead, config: SearchConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package, "UPLOAD_LIMIT_BYTES", 1000)
    with pytest.raises(UploadError, match=r"base_model\.path: .*MiB.*ray rsync-up"):
        submit(config, address=head.url)
    assert not head.requests


# Again


def test_a_running_search_is_refused_with_where_it_runs(
    head: FakeHead, config: SearchConfig
) -> None:
    submit(config, address=head.url)
    with pytest.raises(SearchLockedError, match=f"running on {head.url} as latentune-small.1"):
        submit(config, address=head.url)
    assert len(head.sent("POST")) == 1


def test_a_stopped_search_is_submitted_again(head: FakeHead, config: SearchConfig) -> None:
    first = submit(config, address=head.url)
    assert first.stop().state == "interrupted"
    with pytest.raises(SearchLockedError, match="nothing to stop"):
        first.stop()
    second = submit(config, address=head.url)
    assert second.submission_id == "latentune-small.2"
    assert SubmittedSearch.find("small", address=head.url).submission_id == "latentune-small.2"


def test_somebody_else_was_faster(
    head: FakeHead, config: SearchConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(config, address=head.url)
    monkeypatch.setattr("orchestrator.jobs.cluster.Cluster.jobs", lambda _: [])
    with pytest.raises(SearchLockedError, match="somebody else"):
        submit(config, address=head.url)


def test_an_unknown_search_names_the_known(head: FakeHead, config: SearchConfig) -> None:
    submit(config, address=head.url)
    with pytest.raises(SearchNotFoundError, match="known: small"):
        SubmittedSearch.find("other", address=head.url)


# How it stands


@pytest.mark.parametrize(
    ("status", "code", "state"),
    [
        ("PENDING", None, "waiting"),
        ("SUCCEEDED", 0, "complete"),
        ("STOPPED", None, "interrupted"),
        ("FAILED", 1, "failed"),
        ("FAILED", 2, "refused"),
        ("FAILED", 130, "interrupted"),
        ("FAILED", -9, "killed"),
        ("FAILED", None, "killed"),
    ],
)
def test_states(
    head: FakeHead, config: SearchConfig, status: str, code: int | None, state: str
) -> None:
    submitted = submit(config, address=head.url)
    head.end(submitted.submission_id, status, driver_exit_code=code)
    assert submitted.status().state == state


def test_a_refusal_on_the_head_is_told(head: FakeHead, config: SearchConfig) -> None:
    submitted = submit(config, address=head.url)
    told = "failed with exit code 2, last available logs (truncated to 20,000 chars):\nno space"
    head.end(submitted.submission_id, "FAILED", driver_exit_code=2, message=told)
    assert submitted.status().message == "no space"
    with pytest.raises(JobError, match=r"refused and has left no result.*\nno space"):
        submitted.result()
    told = told.replace("no space", "No module named 'orchestrator'")
    head.end(submitted.submission_id, "FAILED", driver_exit_code=1, message=told)
    assert "--ship-code" in str(submitted.status().message)


def test_a_running_search_has_no_result(head: FakeHead, config: SearchConfig) -> None:
    submitted = submit(config, address=head.url)
    with pytest.raises(JobError, match="wait"):
        submitted.result()
    with pytest.raises(TimeoutError, match="it goes on"):
        submitted.wait(0)


# On the head


def test_paths_on_the_head_stay_the_same(tiny_folder: Path, tmp_path: Path) -> None:
    config = records_config(tiny_folder, tmp_path)
    home = tmp_path / "head"
    read = []
    for trials in (3, 5):
        grown = config.model_copy(
            update={"budget": config.budget.model_copy(update={"trials": trials})}
        )
        sent = tmp_path / f"package{trials}"
        sent.mkdir()
        write_package(grown, sent)
        read.append(unpacked(sent, home))
    first, second = read
    assert first.task == second.task
    assert first.base_model == second.base_model
    (train,) = first.task.train  # type: ignore[union-attr]
    assert train.startswith(str(home / "uploads"))
    assert Path(train).read_bytes() == (tmp_path / "rows.jsonl").read_bytes()
    assert first.task.metrics[0].startswith(str(home / "uploads"))  # type: ignore[union-attr]
    assert (Path(first.base_model.path) / "config.json").exists()
    assert second.budget.trials == 5


def test_a_search_goes_on_in_another_home(tiny_folder: Path, tmp_path: Path) -> None:
    """The files are the same by content; another content is another search."""
    from orchestrator.results import DataRecord
    from orchestrator.search_data import data_differences
    from trainable.records.report import digests_of

    config = records_config(tiny_folder, tmp_path)
    sent, other = tmp_path / "sent", tmp_path / "other"
    sent.mkdir()
    write_package(config, sent)
    before, after = (unpacked(sent, tmp_path / name) for name in ("home", "moved"))
    assert before.base_model.path != after.base_model.path
    assert config_differences(before, after) == []
    folder = SearchFolder(tmp_path / "search")
    folder.path.mkdir()
    digests = digests_of({"train": before.task.train})  # type: ignore[union-attr]
    metrics = {before.task.metrics[0].rpartition(":")[0]: digest_or_none(tmp_path / "own.py")}  # type: ignore[union-attr]
    known = DataRecord(rows={}, example="", sha256={**digests, "metrics": metrics})
    folder.data.write_text(known.model_dump_json())
    assert data_differences(after, folder) == []

    rows(tmp_path / "rows.jsonl", 13)
    other.mkdir()
    write_package(config, other)
    changed = config_differences(before, unpacked(other, tmp_path / "home"))
    assert [line.partition(":")[0] for line in changed] == ["task.train"]


def test_the_same_files_may_come_twice_at_once(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both jobs copy at the same time; one is first, and both have whole files."""
    config, both = records_config(tiny_folder, tmp_path), threading.Barrier(2, timeout=30)
    copy = shutil.copytree

    def together(*arguments: Any, **options: Any) -> Any:
        both.wait()
        copied = copy(*arguments, **options)
        both.wait()
        return copied

    packages = [tmp_path / f"package{n}" for n in range(2)]
    for number, sent in enumerate(packages):
        sent.mkdir()
        write_package(config.model_copy(update={"name": f"search{number}"}), sent)
    monkeypatch.setattr("orchestrator.jobs.package.shutil.copytree", together)
    with ThreadPoolExecutor(2) as pool:
        read = list(pool.map(lambda sent: unpacked(sent, tmp_path / "head"), packages))
    assert read[0].base_model == read[1].base_model
    assert not list((tmp_path / "head" / "uploads").glob(".*"))
    kept = Path(read[0].base_model.path)
    assert {path.name for path in kept.iterdir()} == {path.name for path in tiny_folder.iterdir()}


def unpacked(sent: Path, home: Path) -> SearchConfig:
    from orchestrator.config import load_search

    return load_search(*unpack(sent, home))


def test_the_head_refuses_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    check_sender(this_sender())
    monkeypatch.setattr("orchestrator.jobs.sender.metadata.version", lambda _: "0.1.0")
    with pytest.raises(ClusterError, match=r"head has latentune 0\.1\.0.*from 9\.9.*--ship-code"):
        check_sender(Sender(latentune="9.9", code="-"))


def test_another_source_at_one_version_warns(caplog: pytest.LogCaptureFixture) -> None:
    check_sender(this_sender().model_copy(update={"code": "-"}))
    assert "another source" in caplog.text


# The command line


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["latentune", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


def test_the_verbs(
    head: FakeHead,
    config: SearchConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "search.yaml"
    file.write_text(config.to_yaml())
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", head.url)
    assert call(monkeypatch, "submit", str(file), "--set", "budget.trials=2", "--json") == 0
    assert json.loads(capsys.readouterr().out)["submission_id"] == "latentune-small.1"
    assert b"trials: 2" in head.package()["search.yaml"]
    head.logs["latentune-small.1"] = "hello\nlatentune:progress {}\n"
    assert call(monkeypatch, "jobs", "logs", "small", "--json") == 0
    assert json.loads(capsys.readouterr().out)["log"] == "hello\n"
    assert call(monkeypatch, "jobs", "list", "--json") == 0
    (job,) = json.loads(capsys.readouterr().out)["jobs"]
    assert (job["name"], job["state"]) == ("small", "running")
    assert call(monkeypatch, "jobs", "stop", "small") == 0
    assert "interrupted as latentune-small.1" in capsys.readouterr().out
    assert call(monkeypatch, "jobs", "stop", "small") == 2
    assert call(monkeypatch, "jobs", "status", "other") == 2
    assert call(monkeypatch, "jobs", "list") == 0
    assert "small" in capsys.readouterr().out


def test_bad_input_is_exit_code_2(
    head: FakeHead,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "search.yaml"
    file.write_text(dump_yaml({"name": "x"}))
    assert call(monkeypatch, "submit", str(file), "--address", head.url) == 2
    monkeypatch.setenv("RAY_AUTH_TOKEN", "another" * 5)
    assert call(monkeypatch, "jobs", "list", "--address", head.url) == 2
    assert "403" in capsys.readouterr().err
    assert not head.has_got_anything


def test_what_was_sent_names_its_sender(config: SearchConfig, tmp_path: Path) -> None:
    write_package(config, tmp_path, upload=False)
    assert read_submission(tmp_path).sender == this_sender()
    assert read_yaml(tmp_path / "search.yaml").data["name"] == "small"
