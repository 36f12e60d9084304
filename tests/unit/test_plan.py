"""The plan: rows, what delimiters match, what strategies cost, before anything is written."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator import cli
from orchestrator.config import SearchConfig, load_search
from orchestrator.errors import ConfigError
from orchestrator.plan import Plan, plan_search
from orchestrator.plan_tables import print_plan
from orchestrator.search_data import read_data
from orchestrator.yaml_source import dump_yaml
from trainable.errors import BaseModelError, TaskError

AXES: dict[str, Any] = {
    "strategy": {
        "name": "strategy.arm",
        "one_of": {
            "none": {"triggers": {}},
            "comma": {"triggers": {"c": {"kind": "delimiter", "m": 2}}},
            "marks": {"triggers": {"c": {"kind": "delimiter", "pattern": "[@=]"}}},
            "never": {"triggers": {"c": {"kind": "delimiter", "pattern": "é"}}},
        },
    }
}
SEARCH: dict[str, Any] = {
    "name": "planned",
    "task": {
        "kind": "generation",
        "train_lengths": [3, 3],
        "val_rows": 4,
        "test_rows": 4,
        "train_rows": 8,
    },
    "space": {"axes": AXES},
    "budget": {"trials": 4, "steps": 10},
    "stopping": {"kind": "none"},
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LATENTUNE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def planned(**changed: Any) -> Plan:
    return plan_search(SearchConfig.model_validate(SEARCH | changed), calibrate=False)


def test_rows_and_steps() -> None:
    plan = planned()
    assert plan.splits["train"].rows == 8
    assert plan.splits["val_ood"].rows == 4 * 2
    row = len("44@47=83,47@83=34,83@34=21") + 1  # and BOS
    assert (plan.splits["val_id"].shortest, plan.splits["val_id"].longest) == (row, row)
    assert (plan.trials, plan.baselines, plan.most_trial_steps) == (4, 3, 70)
    assert plan.context == 512


def test_what_delimiters_match() -> None:
    delimiters = planned().delimiters
    assert (delimiters[","].ids, delimiters[","].tokens) == (1, [","])
    assert delimiters["[@=]"].tokens == ["=", "@"]
    assert (delimiters["é"].ids, delimiters["é"].tokens) == (0, [])


def test_what_strategies_cost() -> None:
    costs = planned().strategies
    assert (costs["none"].latents, costs["none"].extra_tokens_pct) == (0, 0)
    assert costs["comma2"].latents == 2
    assert costs["comma2"].extra_tokens_pct == pytest.approx(100 * 4 / 27)  # two commas
    assert costs["comma2"].longest == 31
    assert costs["delimiter(é)1"].extra_tokens_pct == 0


def test_a_large_space_is_sampled() -> None:
    assert len(planned(space="full").strategies) > 50


def test_nothing_is_written(home: Path) -> None:
    planned()
    assert not home.exists()


def test_what_a_run_would_refuse() -> None:
    with pytest.raises(TaskError, match="context is 512"):
        planned(task=SEARCH["task"] | {"test_ood_lengths": [80]})
    with pytest.raises(BaseModelError, match=r"base_model\.path"):
        planned(base_model={"path": "/nowhere"})


def space_of(*starts: tuple[int, str]) -> dict[str, Any]:
    arms = {
        f"{rule}{m}": {"triggers": {"s": {"kind": "start", "m": m}}, "position_rule": rule}
        for m, rule in starts
    }
    return {"axes": {"strategy": {"name": "strategy.arm", "one_of": arms}}, "baselines": False}


def test_strategies_beyond_the_context_are_marked() -> None:
    plan = planned(space=space_of((600, "own"), (600, "following"), (2, "own")))
    refused = {name: cost.refused for name, cost in plan.strategies.items()}
    assert [name for name, reason in refused.items() if reason] == ["start600~own"]
    console = Console(file=io.StringIO(), width=120)
    print_plan(console, plan)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "start600~own *" in text
    assert "* 1 of 3 strategies would be refused: strategy.position_rule: own needs" in text


def plan_uncalibrated(config: SearchConfig) -> Plan:
    return plan_search(config, calibrate=False)


@pytest.mark.parametrize(
    "act", [plan_uncalibrated, lambda config: read_data(config, Path("/nowhere"))]
)
def test_a_space_without_any_strategy_that_fits(act: Callable[[SearchConfig], Any]) -> None:
    space = space_of((600, "own"), (700, "own"))
    with pytest.raises(TaskError, match=r"space: no strategy of it can be trained; .*own needs"):
        act(SearchConfig.model_validate(SEARCH | {"space": space}))
    act(SearchConfig.model_validate(SEARCH | {"space": space_of((600, "own"), (2, "own"))}))


def test_records_are_told_as_a_run_tells_them(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text(
        "\n".join(
            json.dumps({"prompt": f"{i}=", "completion": str(i), "source": "web"})
            for i in range(40)
        )
    )
    (tmp_path / "val.jsonl").write_text('{"prompt": "1=", "completion": "1"}')
    task = {"kind": "records", "train": str(tmp_path / "data.jsonl")}
    task |= {"val_id": str(tmp_path / "val.jsonl")}
    plan = planned(task=task)
    assert plan.overlap["val_id"].model_dump() == {"prompts": 1, "rows": 1}
    assert plan.notes == ["task.train: the columns source are not read"]
    console = Console(file=io.StringIO(), width=120)
    print_plan(console, plan)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "val_id: 1 rows with a prompt that train has too, 1 of them whole" in text
    assert plan.notes[0] in text
    with pytest.raises(ConfigError, match="no row of val_id has the distance 3"):
        planned(task=task, objective="val_id/nll/3")


def test_for_people() -> None:
    console = Console(file=io.StringIO(), width=120)
    print_plan(console, planned())
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "delimiter '[@=]' matches 2 of" in text
    assert "none, so it makes no site" in text
    assert "4 trials and 3 baselines, at most 70 optimiser steps" in text


def test_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "search.yaml"
    file.write_text(dump_yaml(SEARCH))
    assert load_search(file).name == "planned"
    monkeypatch.setattr("sys.argv", ["latentune", "plan", str(file), "--no-calibrate", "--json"])
    with pytest.raises(SystemExit) as done:
        cli.main()
    assert done.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema_version"] == 1
    assert found["delimiters"][","] == {"ids": 1, "tokens": [","]}


def test_a_grid_without_stopping_is_counted() -> None:
    grid = planned(sampler={"kind": "grid"}, space={"axes": AXES, "baselines": False})
    assert grid.exact
    tokens = {name: one.train_tokens for name, one in grid.strategies.items()}
    # 10 steps of 8 rows, each of three equations and BOS, with two commas and two marks each.
    assert tokens == {
        "none": 0,
        "comma2": 80 * (27 + 4),
        "delimiter([@=])1": 80 * (27 + 6),
        "delimiter(é)1": 80 * 27,
    }
    assert grid.estimate.train_tokens == sum(tokens.values())
    assert grid.estimate.seconds is None
    assert "the delimiter 'é' never occurs" in grid.warnings[0]
    assert "▸c·2▸," in grid.strategies["comma2"].sample
    assert not planned().exact


def test_what_a_limit_forbids_is_not_planned() -> None:
    triggers = {"kind": "start", "m": {"choice": [2, 40]}}
    space = {"axes": {"strategy": {"triggers": {"s": triggers}}}}
    grid = {"sampler": {"kind": "grid"}, "space": space, "budget": {"trials": 2, "steps": 10}}
    whole, limited = planned(**grid), planned(**grid, limits={"cost/extra_tokens_pct": 20})
    assert (whole.trials, whole.baselines) == (2, 3)
    assert (limited.trials, limited.baselines, limited.exact) == (1, 3, True)
    assert limited.most_trial_steps == (1 + 3) * 10
    rows_read = 10 * 8
    assert whole.estimate.train_tokens - limited.estimate.train_tokens == rows_read * (27 + 40)
    refused = limited.strategies["start40"].refused
    assert refused == "limits.cost/extra_tokens_pct=20 is below its 148.1 %"
    with pytest.raises(TaskError, match="no strategy of the space keeps it"):
        planned(**grid, limits={"cost/extra_tokens_pct": 1})


def test_the_confirmation_is_planned_with_its_test_rows() -> None:
    found = planned(confirm={"top": 1, "seeds": 2, "control_lr_factors": [1.0]}).estimate
    assert found.confirmation is not None
    assert found.confirmation.steps == (1 + 5) * 2 * 10
    fewer = planned(confirm={"top": 1, "seeds": 2, "control_lr_factors": [1.0], "rows": 2}).estimate
    assert fewer.confirmation is not None
    assert fewer.confirmation.score_tokens < found.confirmation.score_tokens
    assert planned(confirm={"enabled": False}).estimate.confirmation is None
