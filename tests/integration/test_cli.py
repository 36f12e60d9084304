"""`latentune` as a process: exit codes, what goes to which stream, and what it leaves."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config import SearchConfig
from orchestrator.events import read_events
from orchestrator.results import SearchResult
from orchestrator.search_data import read_data
from orchestrator.yaml_source import dump_yaml
from tests.abuse.searches import Terminal
from tests.integration.small_search import (
    Left,
    environment,
    scratch_folder,
    small_config,
    wait_until,
)
from tests.unit.ledgers import abandoned_search, search_config, search_folder

pytestmark = pytest.mark.filterwarnings("ignore")  # other people's
COMMAND = [sys.executable, "-c", "from orchestrator.cli import main; main()"]


class Shell:
    """A user's shell: a current folder, a LATENTUNE_HOME, and streams kept apart."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        left_out = ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "COLUMNS")
        inherited = {key: value for key, value in os.environ.items() if key not in left_out}
        self.environment = inherited | environment(scratch) | {"LATENTUNE_HOME": str(self.home)}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __call__(self, *arguments: str, timeout_s: float = 240) -> tuple[int, str, str]:
        """Run a verb; its exit code, stdout and stderr."""
        process = self.start(*arguments)
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return process.returncode, out, err

    def file(self, data: dict[str, Any] | str) -> str:
        path = self.folder / "search.yaml"
        path.write_text(data if isinstance(data, str) else dump_yaml(data))
        return str(path)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    with scratch_folder() as scratch:
        yield Shell(tmp_path, scratch)


GOOD: dict[str, Any] = {
    "name": "good",
    "task": {"kind": "generation"},
    "space": "quick",
    "budget": {"trials": 1},
}
START2 = {"kind": "start", "m": 2}


# --- bad input: exit code 2, one message with field, value and remedy, and nothing written


class Prompt(Terminal):
    """The same command in this process: a second sooner."""

    def refuses(self, *arguments: str) -> str:
        """Check that a verb is bad input and left nothing; its message."""
        before = sorted(self.folder.rglob("*"))
        said = self(*arguments)
        assert (said.code, said.out) == (2, ""), said.err
        assert "Traceback" not in said.err
        assert sorted(self.folder.rglob("*")) == before
        return said.err


@pytest.fixture
def prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Prompt:
    return Prompt(tmp_path, monkeypatch, capsys)


def test_bad_input_in_a_process_of_its_own(shell: Shell) -> None:
    code, out, err = shell("run", shell.file(GOOD | {"budgte": {"trials": 2}}))
    assert (code, out) == (2, "")
    assert "did you mean `budget`" in err
    assert len(err.splitlines()) == 1
    assert not shell.home.exists()


@pytest.mark.parametrize(
    ("changed", "parts"),
    [
        ({"budgte": {"trials": 2}}, ["budgte", "did you mean `budget`"]),
        ({"budget": {"trials": "many"}}, ["budget.trials", "'many'", "expected a valid integer"]),
        (
            {"budget": {"trials": 1, "steps": 30}, "stopping": {"min_steps": 60}},
            ["stopping.min_steps", "60", "expected at most budget.steps, which is 30", "lower it"],
        ),
        (
            {"space": {"axes": {"strategy": {"triggers": {"a": START2 | {"k": 3}}}}}},
            ["space.axes", "k=3", "remove it or change the kind"],
        ),
        (
            {
                "space": {
                    "axes": {"strategy": {"triggers": {"a": START2, "b": {"kind": "end", "m": 1}}}}
                }
            },
            ["space.axes", "specialization: shared needs the same m"],
        ),
        (
            {"task": {"kind": "generation", "train_rows": 0}},
            ["task.train_rows", "got 0", "expected greater than or equal to 1"],
        ),
        (
            {"task": {"kind": "generation", "train_rows": 6001}},
            ["task.train_rows", "6001", "from 1 to 6000"],
        ),
        ({"name": "My Search"}, ["name", "'My Search'", "write for example my-search"]),
        (
            {"base_model": {"path": "no/such-model"}},
            ["base_model.path", "'no/such-model'", "Give `bundled`"],
        ),
        ({"confirm": {"seeds": 1}}, ["confirm.seeds", "1"]),
    ],
)
def test_a_bad_search_file(prompt: Prompt, changed: dict[str, Any], parts: list[str]) -> None:
    message = prompt.refuses("run", prompt.file(GOOD | changed))
    assert [part for part in parts if part.lower() not in message.lower()] == [], message


def test_all_problems_of_a_file_come_at_once(prompt: Prompt) -> None:
    changed = {"name": "B ad", "budget": {"trials": 0}, "data": {"sed": 1}}
    message = prompt.refuses("run", prompt.file(GOOD | changed))
    assert all(part in message for part in ("name", "budget.trials", "data.sed")), message


def test_bad_rows_are_listed_before_anything_starts(prompt: Prompt) -> None:
    (prompt.folder / "data.jsonl").write_bytes(
        b'{"prompt": "1", "completion": "2"}\n{"prompt": "", "completion": ""}\n\n[]\n'
        b'{"prompt": "\xff"}'
    )
    task = {"kind": "records", "train": "data.jsonl", "val_id": "nowhere.jsonl"}
    message = prompt.refuses("run", prompt.file(GOOD | {"task": task}))
    path = prompt.folder / "data.jsonl"
    assert message.splitlines() == [
        "bad data: 5 problems",
        f"- {path} row 2: completion is empty: nothing is left to learn",
        f"- {path} row 3: the line is empty: remove it",
        f"- {path} row 4: expected a JSON object, got []",
        f"- {path} row 5: no valid UTF-8 at byte 13: b'\\xff\"}}'",
        f"- {prompt.folder / 'nowhere.jsonl'}: there is no such file: check the path",
    ]


def test_a_metric_that_cannot_be_loaded(prompt: Prompt) -> None:
    (prompt.folder / "data.jsonl").write_text('{"prompt": "1", "completion": "2"}')
    (prompt.folder / "own.py").write_text("f1 = 1")
    task = {"kind": "records", "train": "data.jsonl", "metrics": ["own:f1"]}
    message = prompt.refuses("run", prompt.file(GOOD | {"task": task}))
    assert f"{prompt.folder / 'own.py'} has no function 'f1'" in message


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("name: [", ["search.yaml", "line"]),
        ("", ["search.yaml", "empty"]),
        ("- a\n- b\n", ["search.yaml", "mapping"]),
        ("name: \x00", ["search.yaml"]),
    ],
)
def test_a_file_that_is_no_search(prompt: Prompt, text: str, parts: list[str]) -> None:
    message = prompt.refuses("run", prompt.file(text))
    assert [part for part in parts if part not in message] == [], message


def test_a_missing_file(prompt: Prompt) -> None:
    message = prompt.refuses("run", "nowhere.yaml")
    assert "nowhere.yaml" in message


def model_folder(folder: Path, config: dict[str, Any]) -> str:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]},
            "t5 model, which is no causal",
        ),
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "BertForMaskedLM"),
        ({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, "lacks a tokenizer"),
    ],
)
def test_a_base_model_that_cannot_carry_latents(
    prompt: Prompt, config: dict[str, Any], words: str
) -> None:
    path = model_folder(prompt.folder / "model", config)
    message = prompt.refuses("run", prompt.file(GOOD | {"base_model": {"path": path}}))
    assert "base_model.path" in message
    assert path in message
    assert words in message


@pytest.mark.slow
def test_a_base_model_without_weights_leaves_no_search(shell: Shell, tiny_folder: Path) -> None:
    """It is found out by the engine, once Ray runs; the search's folder goes again."""
    copy = shell.folder / "model"
    shutil.copytree(tiny_folder, copy)
    (copy / "model.safetensors").unlink()
    code, _, err = shell("run", shell.file(small_config(copy)))
    assert code == 2, err
    assert "base_model.path" in err
    assert "Traceback" not in err
    assert not list((shell.home / "searches").glob("*"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "budget.trials=0"], "budget.trials"),
        (["--set", "budget.trails=3"], "did you mean `trials`"),
        (["--set", "nonsense"], "write for example --set budget.trials=8"),
    ],
)
def test_a_bad_override(prompt: Prompt, arguments: list[str], words: str) -> None:
    assert words in prompt.refuses("run", prompt.file(GOOD), *arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["runn"], "runn"),
        (["run"], "SEARCH.yaml"),
        (["list", "--jsn"], "--jsn"),
        (["status", "nosuch"], "there is no search 'nosuch'"),
        (["status", "No Such"], "'No Such' is no search name"),
        (["status", "../escape"], "'../escape' is no search name"),
        (["stop", "nosuch"], "there is no search 'nosuch'"),
        (["rm", "nosuch", "--yes"], "there is no search 'nosuch'"),
        (["pull", "nosuch", "--to", "here"], "nothing was ever stored under"),
        (["spaces", "quikc"], "did you mean `quick`"),
        (["generate", "nowhere", "44@47="], "nowhere"),
        (["evaluate", "nowhere"], "nowhere"),
        (["evaluate", "nowhere", "--split", "test"], "--split 'test' is unknown"),
        (["evaluate", "nowhere", "--to", "here"], "--to needs DATA"),
        (["evaluate", "nowhere", "--baseline"], "--baseline needs DATA"),
        (["evaluate", "nowhere", "x.jsonl", "--rows", "3"], "--rows is for the task's own rows"),
        (["evaluate", "nowhere", "x.jsonl"], "nowhere is no artifact folder"),
        (["evaluate", "nowhere", "x.jsonl", "--metric", "f1"], "'f1' is no metric"),
    ],
)
def test_a_bad_command_line(prompt: Prompt, arguments: list[str], words: str) -> None:
    assert words in prompt.refuses(*arguments)


def test_a_metric_that_ends_the_process_is_bad_input(prompt: Prompt) -> None:
    (prompt.folder / "leaving.py").write_text("import sys\nsys.exit(3)\n")
    said = prompt("evaluate", "nowhere", "x.jsonl", "--metric", "leaving.py:f")
    assert (said.code, said.out) == (2, "")
    assert "leaving.py:f' cannot be imported (SystemExit: 3)" in said.err


# --- reading


@pytest.fixture
def begun(shell: Shell) -> Shell:
    abandoned_search(shell.home)
    return shell


@pytest.mark.parametrize(
    ("arguments", "keys"),
    [
        (["list", "--json"], {"schema_version", "searches"}),
        (["status", "tiny", "--json"], {"schema_version", "name", "state", "trials", "best"}),
        (["spaces", "--json"], {"schema_version", "spaces"}),
        (["spaces", "quick", "--json"], {"schema_version", "name", "size", "tree", "samples"}),
    ],
)
def test_json_alone_is_on_stdout(begun: Shell, arguments: list[str], keys: set[str]) -> None:
    code, out, err = begun(*arguments)
    assert (code, err) == (0, "")
    data = json.loads(out)
    assert data["schema_version"] == 1
    assert keys <= set(data)


def test_words_for_people(begun: Shell) -> None:
    for arguments, words in (
        (["list"], "tiny"),
        (["status", "tiny"], "tiny: interrupted; trials: 1 running"),
        (["spaces"], "quick"),
        (["--help"], "generate"),
    ):
        code, out, err = begun(*arguments)
        assert (code, err) == (0, "")
        assert words in out


def test_only_a_running_search_can_be_stopped(begun: Shell, prompt: Prompt) -> None:
    words = "search 'tiny' is not running: there is nothing to stop"
    assert words in prompt.refuses("stop", "tiny")


def test_a_search_is_removed(begun: Shell) -> None:
    code, out, _ = begun("rm", "tiny", "--yes")
    assert code == 0
    assert "removed" in out
    assert not search_folder(begun.home).path.exists()


def test_the_same_name_with_another_file_is_refused(begun: Shell, prompt: Prompt) -> None:
    changed = search_config().model_dump(mode="json") | {"data": {"seed": 7, "max_tokens": None}}
    message = prompt.refuses("run", prompt.file(changed))
    assert "data.seed: 0 -> 7" in message
    assert "latentune rm tiny" in message


def test_a_changed_data_file_is_refused(begun: Shell, prompt: Prompt) -> None:
    data = prompt.folder / "data.jsonl"
    rows = [{"prompt": f"{i}=", "completion": str(i)} for i in range(60)]
    data.write_text("\n".join(map(json.dumps, rows)))
    config = search_config(task={"kind": "records", "train": str(data)})
    folder = search_folder(begun.home)
    folder.config.write_text(config.to_yaml())
    known = read_data(config, begun.home)
    folder.data.write_text(known.record.model_dump_json())
    data.write_text(data.read_text().replace("59", "60"))
    message = prompt.refuses("run", prompt.file(config.model_dump(mode="json")))
    assert f"task.train: {data} has changed (" in message
    assert "latentune rm tiny" in message


# --- a whole search


@pytest.mark.slow
def test_from_run_to_rm(shell: Shell, tiny_folder: Path) -> None:
    file = shell.file(small_config(tiny_folder))
    code, out, err = shell("run", file)
    assert code == 0, err
    assert "Candidate: small-" in out
    assert "latentune pull small --to ./small" in out
    assert len(re.findall(r"^\[\d/3\] trial \d ", err, flags=re.MULTILINE)) == 3, err
    status = SearchResult.model_validate_json(shell("status", "small", "--json")[1])
    assert (status.state, len(status.trials)) == ("complete", 3)
    code, out, err = shell("pull", "small", "--to", "small")
    assert code == 0, err
    code, out, err = shell("generate", "small", "44@47=", "--max-new-tokens", "4")
    assert code == 0, err
    assert out.replace(" ", "").startswith("44@47=")
    code, out, err = shell("evaluate", "small", "--rows", "2", "--json")
    assert code == 0, err
    assert {"test_id/exact_match", "test_ood/exact_match/4"} <= set(json.loads(out)["metrics"])
    assert shell("run", file)[0] == 0
    Left(shell.home, SearchConfig.model_validate(small_config(tiny_folder))).check_whole(trials=3)
    assert shell("rm", "small", "--yes")[0] == 0


def press_ctrl_c(process: subprocess.Popen[str]) -> tuple[int, str]:
    """SIGINT to the whole process group, as a terminal does."""
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=240)
    return process.returncode, out + err


def long_config(base_model: Path, steps: int = 200) -> dict[str, Any]:
    """Four trials that take some seconds each: there is time to interrupt them."""
    budget = {"trials": 4, "steps": steps}
    return small_config(base_model, budget=budget, stopping={"kind": "none"})


def started(home: Path) -> Callable[[], bool]:
    """Whether the engine has the first trials."""
    events = home / "searches" / "small" / "events.jsonl"
    return lambda: any(event.type == "trial_started" for event in read_events(events))


@pytest.mark.slow
def test_ctrl_c_and_again_gives_exactly_the_trials(shell: Shell, tiny_folder: Path) -> None:
    data = long_config(tiny_folder)
    file, config = shell.file(data), SearchConfig.model_validate(data)
    process = shell.start("run", file)
    wait_until(started(shell.home), 120)
    code, text = press_ctrl_c(process)
    assert code == 130, text
    assert "stopping: running trials save their state" in text
    assert "the same command goes on with it" in text
    assert "Traceback" not in text
    first = SearchResult.model_validate_json(shell("status", "small", "--json")[1])
    assert first.state == "interrupted"
    code, out, err = shell("run", file)
    assert code == 0, out + err
    left = Left(shell.home, config)
    left.check_whole(trials=4)
    for event in left.events("trial_ended"):
        assert event.payload["step"] == 200


@pytest.mark.slow
def test_a_killed_driver_is_followed_by_the_next(shell: Shell, tiny_folder: Path) -> None:
    data = long_config(tiny_folder)
    file, config = shell.file(data), SearchConfig.model_validate(data)
    process = shell.start("run", file)
    wait_until(started(shell.home), 120)
    process.kill()
    process.communicate(timeout=60)
    began = time.monotonic()
    code, out, err = shell("run", file)
    assert code == 0, f"{out + err} after {time.monotonic() - began:.0f} s"
    Left(shell.home, config).check_whole(trials=4)


@pytest.mark.slow
def test_stop_pauses_a_running_search_and_a_second_driver_is_refused(
    shell: Shell, tiny_folder: Path
) -> None:
    file = shell.file(long_config(tiny_folder, steps=1_000_000))
    process = shell.start("run", file)
    wait_until(started(shell.home), 120)
    code, _, err = shell("run", file)
    assert code == 2
    assert f"process {process.pid} on " in err
    code, out, _ = shell("stop", "small")
    assert (code, out[:5]) == (0, "asked")
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert "goes on with it" in err
    assert (
        SearchResult.model_validate_json(
            (shell.home / "searches" / "small" / "result.json").read_text()
        ).state
        == "interrupted"
    )
