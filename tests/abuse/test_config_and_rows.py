"""Abuse A13 to A16: what a search file, a row and a command line may hold."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.table import Table
from typer.core import TyperGroup
from typer.main import get_command

from orchestrator.cli import app
from orchestrator.config import load_search
from orchestrator.console import PlainConsole
from orchestrator.doctor.findings import DoctorReport
from orchestrator.errors import ConfigError
from orchestrator.listing import SearchLine, SearchListing
from orchestrator.safety.redaction import SafeFormatter
from orchestrator.safety.terminal import harmless, harmless_json
from orchestrator.yaml_source import parse_yaml, read_yaml
from tests.abuse.searches import GOOD, Terminal
from trainable.artifact import Artifact, model_card
from trainable.records.problems import RowProblems
from trainable.records.reading import digest_or_none
from trainable.records.store import RecordStore
from trainable.trial import TrialConfig

NASTY = "\x1b[2J\x1b]0;owned\x07\x9b31m\r\u202e<script>alert(1)</script>`|[bold]x[/bold]:smile:"
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
SHELLS = ["${HOME}", "$HOME", "$(touch canary)", "`touch canary`", "{{ 7*7 }}", "%(name)s", "~",
          "!!python/name:os.system", "{0.__class__}", "${oc.env:HOME}"]  # fmt: skip


@pytest.mark.parametrize("text", SHELLS)
def test_a13_nothing_in_a_search_file_is_expanded(terminal: Terminal, text: str) -> None:
    tracking = {"experiment": text}
    config = load_search(terminal.file(GOOD | {"tracking": tracking}))
    assert config.tracking.experiment == text
    assert load_search(terminal.file(config.to_yaml())).tracking.experiment == text
    assert not (terminal.folder / "canary").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\na: 2", "the key is there twice"),
        ("a: &x [1]\nb: [*x, *x, *x]", "anchor"),
        ("a: !!python/object/apply:os.system ['touch canary']", "tag"),
        ("a:\n\t- 1", "no valid YAML"),
        ("a: \x00", "unacceptable character"),
        ("[" * 5000, "nested deeper than 50 levels"),
        ("{a: " * 5000, "nested deeper than 50 levels"),
        ("- " * 5000, "nested deeper than 50 levels"),
        ("a: 1\n---\nb: 1", "several documents"),
        ("? {a: b}\n: c", "a key must be a plain text"),
        ("#" * 10_000_000, "larger than 1000000 bytes"),
    ],
)
def test_a13_yaml_is_data_and_small(terminal: Terminal, text: str, words: str) -> None:
    path = Path(terminal.file(text))
    try:
        found = "\n".join(map(str, read_yaml(path).problems))
    except ConfigError as error:
        found = str(error)
    assert words in found
    assert not (terminal.folder / "canary").exists()


def test_a13_an_override_is_no_more_than_a_file(terminal: Terminal) -> None:
    for given_ in ("tracking.experiment=!!python/name:os.system", "name=&a b", "budget.trials=*a"):
        said = terminal("plan", terminal.file(GOOD), "--set", given_)
        assert (said.code, said.out) == (2, "")
        assert "Traceback" not in said.err


# --- A14: rows and names


def row_problems(path: Path, tokenizer: Any) -> list[str]:
    problems = RowProblems()
    RecordStore(tokenizer, None).table({str(path): digest_or_none(path)}, problems)
    return problems.shown


def test_a14_rows_are_stored_as_they_are(tmp_path: Path, tokenizer: Any) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": NASTY, "completion": NASTY}))
    problems = RowProblems()
    table = RecordStore(tokenizer, None).table({str(path): digest_or_none(path)}, problems)
    assert problems.count == 0
    assert table is not None
    assert table.texts(0) == (NASTY, NASTY)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"prompt": "a", "prompt": "b", "completion": "c"}', "row 2: the key 'prompt' is there"),
        (
            '{"messages": [{"role": "user", "role": "system", "content": "a"}]}',
            "row 2: the key 'role' is there twice",
        ),
        (
            '{"messages": [{"role": "human", "content": "a"}, {"role": "gpt", "content": "b"}]}',
            "messages.0.role: expected system, developer, user, assistant or tool, got 'human'",
        ),
        (
            json.dumps({"messages": [{"role": NASTY, "content": "a"}] * 2}),
            "messages.0.role: expected",
        ),
        ("[" * 100_000, "row 2: no valid JSON"),
        ('{"prompt": ' + "9" * 5000 + "}", "row 2: no valid JSON"),
        ('{"prompt": "\\ud800", "completion": "a"}', "half a surrogate pair"),
        (json.dumps({"prompt": "a" * 1_000_001, "completion": "b"}), "above 1000000: shorten it"),
        (json.dumps({"prompt": 1e308, "completion": [NASTY]}), "prompt: expected a text"),
        ('{"prompt": "a", "completion": "b", "distance": 1e400}', "distance: expected"),
    ],
)
def test_a14_a_row_that_is_none_is_named(
    tmp_path: Path, tokenizer: Any, line: str, words: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n' + line + "\n")
    (problem,) = row_problems(path, tokenizer)
    assert words in problem
    assert not CONTROL.search(problem)


def test_a14_the_console_shows_what_would_move_it() -> None:
    console = PlainConsole()
    console.file = io.StringIO()
    console.width = 300
    table = Table(NASTY, title=NASTY)
    table.add_row(NASTY)
    for thing in (NASTY, table):
        console.print(thing)
    console.print(NASTY, markup=False, highlight=False, soft_wrap=True)
    shown = console.file.getvalue()
    assert not CONTROL.search(shown)
    assert shown.count("[bold]x[/bold]:smile:") >= 3  # markup and emoji codes are texts
    assert "␛[2J" in shown


def test_a14_logs_and_json_hold_no_control_characters() -> None:
    record = logging.LogRecord("x", logging.WARNING, "f", 1, "%s", (NASTY,), None)
    assert not CONTROL.search(SafeFormatter("%(message)s").format(record))
    line = SearchLine(name=NASTY, state="complete", trials=1, objective="o",
                      best_strategy=None, best_score=None)  # fmt: skip
    text = harmless_json(SearchListing(searches=[line]).model_dump_json(indent=2))
    assert not CONTROL.search(text)
    assert json.loads(text)["searches"][0]["name"] == NASTY


@settings(max_examples=40, deadline=None)
@given(st.text())
def test_a14_harmless_keeps_length_and_lines(text: str) -> None:
    shown = harmless(text)
    assert len(shown) == len(text)
    assert not CONTROL.search(shown)
    assert shown.count("\n") == text.count("\n")
    assert harmless(shown) == shown


def test_a14_a_model_card_holds_names_as_code() -> None:
    """A Markdown viewer may render HTML; MLflow's notes are `tests/unit/test_report.py`."""
    trigger = {"kind": "delimiter", "pattern": "<script>alert`1`\n# Owned</script>|"}
    config = TrialConfig.from_dict({"strategy": {"triggers": {"a": trigger}}})
    score = {"metric": NASTY, "rows": 1, "mean": 0.1, "low": 0.1, "high": 0.1, "control_mean": 0.0}
    import numpy as np

    card = model_card(
        Artifact(
            latents=np.zeros((1, 2), np.float32),
            config=config,
            base_model={"path": NASTY, "fingerprint": NASTY, "revision": NASTY,
                        "trust_remote_code": True},
            metrics={NASTY: 0.5},
            provenance={"search": "s", "trial_uid": NASTY},
            confirmation={"seeds": 2, "control": "c", "verdict": "v", "scores": [score]},
        )
    )  # fmt: skip
    outside = re.sub(r"```.*?```|`[^`\n]*`", "", card, flags=re.DOTALL)
    assert "<script" not in outside
    assert "# Owned" not in [line.strip() for line in card.splitlines()]
    assert not CONTROL.search(card)


# --- A15: numbers that no machine holds


START = {"kind": "start", "m": 2}


def space(**axes: Any) -> dict[str, Any]:
    return {"space": {"axes": axes}}


def trigger(**fields: Any) -> dict[str, Any]:
    return space(strategy={"triggers": {"a": {"kind": "every", "k": 4} | fields}})


HUGE: list[tuple[dict[str, Any], str, str]] = [
    ({"budget": {"trials": 10**9}}, "budget.trials", "1000000000"),
    ({"budget": {"trials": 10**400}}, "budget.trials", "expected"),
    ({"budget": {"trials": 10**6, "steps": 10**8}}, "budget.trials", "1e+14 optimiser steps"),
    ({"budget": {"trials": 1, "steps": 10**12}}, "budget.steps", "1000000000000"),
    ({"budget": {"trials": 1, "time_s": "1e400"}}, "budget.time_s", "1e400"),
    ({"budget": {"trials": 1, "time_s": 0}}, "budget.time_s", "greater than 0"),
    ({"budget": {"trials": 0}}, "budget.trials", "greater than or equal to 1"),
    ({"stopping": {"min_steps": 0}}, "stopping.min_steps", "greater than or equal to 1"),
    ({"stopping": {"factor": 1}}, "stopping.factor", "greater than or equal to 2"),
    ({"engine": {"concurrent_trials": 10**6}}, "engine.concurrent_trials", "1000000"),
    ({"engine": {"threads": 10**9}}, "engine.threads", "1000000000"),
    ({"confirm": {"seeds": 10**9}}, "confirm.seeds", "1000000000"),
    ({"confirm": {"top": 10**9}}, "confirm.top", "1000000000"),
    ({"data": {"seed": 10**12}}, "data.seed", "1000000000000"),
    ({"task": {"kind": "generation", "train_rows": 10**9}}, "task.train_rows", "1000000000"),
    ({"task": {"kind": "generation", "val_ood_lengths": [10**9]}}, "task.val_ood", "1000000000"),
    ({"task": {"kind": "summation", "train_lengths": [1, 10**9]}}, "task.train", "1000000000"),
    (trigger(m=10**6), "space.axes", "m=1000000"),
    (trigger(k=0), "space.axes", "k=0"),
    (trigger(k=10**12), "space.axes", "k=1000000000000"),
    (trigger(m={"int": {"low": 1, "high": 10**30}}), "space.axes", "expected a whole number"),
    (
        space(strategy={"triggers": {"a": START | {"m": 4000}}, "specialization": "cycle",
                        "groups": 4000}),
        "space.axes", "16000000 latents in all",
    ),
    (space(strategy={"triggers": {"a": START}}, optim={"batch_rows": 10**9}), "space.axes",
     "optim.batch_rows=1000000000"),
    (
        space(strategy={"triggers": {"a": {"kind": "every", "k": {"int": {"low": 1,
              "high": 10**9}}}}}) | {"sampler": {"kind": "grid"}},
        "sampler.kind", "1e+09 configurations",
    ),
]  # fmt: skip


@pytest.mark.parametrize("verb", ["plan", "run"])
@pytest.mark.parametrize(("changed", "field", "number"), HUGE)
def test_a15_huge_numbers_are_refused_with_the_number(
    terminal: Terminal, verb: str, changed: dict[str, Any], field: str, number: str
) -> None:
    data = GOOD | changed
    if changed.get("budget", {}).get("time_s") == "1e400":
        path = terminal.file("name: good\ntask: {kind: generation}\nspace: quick\n"
                             "budget: {trials: 1, time_s: 1e400}\n")  # fmt: skip
        number = "inf"
    else:
        path = terminal.file(data)
    said = terminal(verb, path)
    assert (said.code, said.out) == (2, ""), said.err
    assert field in said.err
    assert number in said.err
    assert "Traceback" not in said.err
    assert not terminal.home.exists()


def test_a15_a_deep_space_is_refused(terminal: Terminal) -> None:
    deep: Any = 1
    for _ in range(40):
        deep = {"one_of": {"a": deep, "b": deep}} if deep == 1 else {"one_of": {"a": deep, "b": 1}}
    said = terminal("plan", terminal.file(GOOD | space(strategy=deep)))
    assert said.code == 2
    assert "Traceback" not in said.err


# --- A16: command lines


def commands(group: TyperGroup) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """Every verb with its words, `jobs list`, and its options."""
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from (((name, *words), options) for words, options in commands(command))
        else:
            yield (name,), [option for param in command.params for option in param.opts]


def whole_app() -> TyperGroup:
    found = get_command(app)
    assert isinstance(found, TyperGroup)
    return found


COMMANDS = dict(commands(whole_app()))
VERBS = sorted({words[0] for words in COMMANDS})
OPTIONS = sorted({o for found in COMMANDS.values() for o in found if o[0] == "-"})
OPTIONS += ["--help", "--", "-", "--no-calibrate", "--nosuch"]
WORDS = st.one_of(
    st.sampled_from([*VERBS, *OPTIONS]),
    st.sampled_from(["nosuch", "../x", "0", "-1", "1e9", "a=b", "name=", "=", "nosuch@v1", "x@"]),
    st.text(max_size=12),
    st.sampled_from([NASTY, "a\0b", "\udcff", "x" * 5000, "/dev/null", ".", "9" * 400]),
)


@pytest.fixture
def in_vain(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """The command line, whose `ui` serves nothing, and whose `doctor` looks at nothing."""
    monkeypatch.setattr("orchestrator.ui.serve_ui", lambda *_, **__: "http://127.0.0.1:5000")
    well = DoctorReport()
    monkeypatch.setattr("orchestrator.doctor.examination.examine", lambda *_, **__: well)
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return terminal


@pytest.mark.parametrize("verb", sorted(COMMANDS), ids=" ".join)
def test_a16_every_verb_says_what_it_does_not_know(
    in_vain: Terminal, verb: tuple[str, ...]
) -> None:
    for words in (["--nosuch"], ["nosuch", "x", "y", "z"], ["../../x", "--json"]):
        said = in_vain(*verb, *words)
        assert said.code in (0, 2) if verb == ("doctor",) else said.code == 2, words
        assert said.err
        assert "Traceback" not in said.err


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(verb=st.sampled_from(sorted(COMMANDS)), words=st.lists(WORDS, max_size=4))
def test_a16_any_command_line_is_a_message_and_an_exit_code(
    in_vain: Terminal, verb: tuple[str, ...], words: list[str]
) -> None:
    """Nothing escapes, whatever stands there: what is no input is said, with exit code 2."""
    terminal, said = in_vain, in_vain(*verb, *words)
    assert said.code in (0, 2)
    assert "Traceback" not in said.err
    assert not CONTROL.search(said.err + said.out)
    assert said.code == 0 or said.err
    assert not (terminal.home / "searches").exists()


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_a16_any_bytes_are_a_search_file_or_a_message(terminal: Terminal, content: bytes) -> None:
    said = terminal("plan", terminal.file(content))
    assert said.code == 2
    assert "Traceback" not in said.err
    assert not CONTROL.search(said.err)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
FIELDS = ["name", "task", "task.kind", "task.train_rows", "space", "space.axes", "space.preset",
          "budget", "budget.trials", "sampler", "sampler.kind", "stopping.factor", "objective",
          "limits", "tradeoffs", "data.max_tokens", "engine", "confirm.control_lr_factors",
          "base_model.device_map", "base_model.revision", "tracking.uri"]  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(field=st.sampled_from(FIELDS), value=VALUES)
def test_a16_any_value_of_any_field_is_right_or_a_message(field: str, value: Any) -> None:
    from orchestrator.search_config import SearchConfig

    data = json.loads(json.dumps(GOOD))
    *above, last = field.split(".")
    node = data
    for key in above:
        node = node.setdefault(key, {})
        if not isinstance(node, dict):
            return
    node[last] = value
    try:
        SearchConfig.model_validate(data)
    except ValueError as error:
        assert str(error)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=300))
def test_a16_any_text_is_yaml_or_a_message(text: str) -> None:
    try:
        parse_yaml(text, "s")
    except ConfigError as error:
        assert "\n" not in str(error)
