"""A search file: what it may hold, and that all its mistakes are told at once."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from orchestrator.config import (
    GenerationTaskConfig,
    SearchConfig,
    config_differences,
    load_search,
)
from orchestrator.errors import ConfigError
from orchestrator.yaml_source import dump_yaml
from search_spaces import PRESETS
from trainable.base_model.options import LoadOptions

MINIMAL: dict[str, Any] = {
    "name": "generation-quickstart",
    "task": {"kind": "generation"},
    "space": "quick",
    "budget": {"trials": 24},
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "search.yaml"
    path.write_text(dump_yaml(MINIMAL))
    return path


def written(file: Path, **changed: Any) -> Path:
    """The minimal file with sections replaced; None takes one away."""
    data = {**MINIMAL, **changed}
    file.write_text(dump_yaml({key: value for key, value in data.items() if value is not None}))
    return file


def problems_of(file: Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_search(file, overrides)
    assert str(caught.value).startswith(str(file))
    return [str(problem) for problem in caught.value.problems]


def only_problem(file: Path, *overrides: str) -> str:
    problems = problems_of(file, *overrides)
    assert len(problems) == 1, problems
    return problems[0]


# --- what is legal


def test_a_minimal_file_gets_every_default(file: Path) -> None:
    config = load_search(file)
    assert config.model_dump(mode="json") == {
        "name": "generation-quickstart",
        "task": {
            "kind": "generation",
            "train_lengths": [3, 6],
            "val_ood_lengths": [8, 12],
            "test_ood_lengths": [8, 12, 18],
            "train_rows": 2048,
            "val_rows": 64,
            "test_rows": 500,
        },
        "base_model": {
            "path": "bundled",
            "revision": None,
            "dtype": "float32",
            "device": "auto",
            "device_map": None,
            "attn_implementation": "sdpa",
            "quantization": None,
            "trust_remote_code": False,
        },
        "data": {"seed": 0, "max_tokens": None, "long_rows": "refuse"},
        "space": {
            "preset": "quick",
            "python": None,
            "axes": None,
            "baselines": True,
            "start_points": True,
        },
        "objective": "val_ood/exact_match",
        "tradeoffs": [],
        "limits": {},
        "budget": {
            "trials": 24,
            "steps": 540,
            "time_s": None,
            "total_steps": None,
            "tokens": None,
            "gpu_hours": None,
            "money": None,
            "price_per_hour": None,
        },
        "sampler": {
            "kind": "tpe",
            "seed": 0,
            "startup_trials": 8,
            "population": 16,
            "warm_start": [],
        },
        "stopping": {
            "kind": "asha",
            "min_steps": 60,
            "metric": None,
            "factor": 3,
            "startup_trials": 5,
        },
        "engine": {
            "concurrent_trials": 8,
            "count": None,
            "gpus": None,
            "step_timeout_s": None,
            "micro_batch_tokens": None,
            "threads": None,
            "share_prefixes": "auto",
            "precision": None,
            "compile": False,
            "checkpoint_activations": False,
            "deterministic": False,
        },
        "confirm": {
            "enabled": True,
            "top": 3,
            "seeds": 5,
            "rows": None,
            "control_lr_factors": [0.3, 1.0, 3.0],
            "controls": "each",
            "members_at_once": 128,
        },
        "tracking": {"experiment": "latentune", "uri": None, "report": True, "on_end": []},
    }


def test_a_configuration_is_frozen(file: Path) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_search(file).budget.trials = 3


def test_a_preset_s_name_is_a_whole_space_section(file: Path) -> None:
    short = load_search(file)
    assert load_search(written(file, space={"preset": "quick"})) == short
    assert short.space.build() == PRESETS["quick"]()


def test_own_axes_make_a_space(file: Path) -> None:
    axes = {"optim": {"lr": {"float": {"low": 0.01, "high": 0.1}}}}
    config = load_search(written(file, space={"axes": axes, "baselines": False}))
    assert [axis.name for axis in config.space.build().axes()] == ["optim.lr"]
    assert not config.space.baselines


@pytest.mark.parametrize(
    "base_model",
    [
        {"dtype": "float16", "quantization": "bitsandbytes-8bit"},
        {"device_map": "auto", "quantization": "bitsandbytes-4bit"},
        {"device_map": {"model": 0, "lm_head": "cuda:1"}, "device": "auto"},
        {"path": "a/b", "revision": "0" * 40, "trust_remote_code": True},
        {"attn_implementation": "eager"},
    ],
)
def test_ways_to_load_a_base_model(file: Path, base_model: dict[str, Any]) -> None:
    section = load_search(written(file, base_model=base_model)).base_model
    options = section.model_dump(mode="json")
    assert base_model.items() <= options.items()
    del options["path"]
    LoadOptions(**options)  # what the engine loads with


def test_a_fully_fixed_space_is_legal(file: Path) -> None:
    config = load_search(written(file, space={"axes": {"seed": 3}}))
    assert config.space.build().size() == 1


def test_names_fill_the_slug_s_limits(file: Path) -> None:
    for name in ("a", "0", "a" * 64, "a.b_c-d"):
        assert load_search(written(file, name=name)).name == name


@pytest.mark.parametrize(
    "metric",
    [
        "val_ood/exact_match/12",
        "val_id/exact_match",
        "val_id/exact_match/6",
        "val_ood/equation_accuracy/8",
    ],
)
def test_metrics_may_name_one_distance(file: Path, metric: str) -> None:
    config = load_search(written(file, objective=metric, stopping={"metric": metric}))
    assert (config.objective, config.stopping.metric) == (metric, metric)


@pytest.mark.parametrize(
    ("steps", "stopping", "rungs"),
    [
        (540, {}, [60, 180, 540]),
        (600, {}, [60, 180, 540, 600]),
        (60, {}, [60]),
        (61, {}, [60, 61]),
        (16, {"min_steps": 1, "factor": 2}, [1, 2, 4, 8, 16]),
        (540, {"kind": "none"}, [540]),
        (30, {"kind": "none"}, [30]),
    ],
)
def test_rungs_grow_by_the_factor_up_to_the_budget(
    file: Path, steps: int, stopping: dict[str, Any], rungs: list[int]
) -> None:
    written(file, budget={"trials": 1, "steps": steps}, stopping=stopping)
    assert load_search(file).rungs() == rungs


# --- what is refused


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": None}, "name: the key is missing; add name: the search's name, for example"),
        ({"name": 3}, "name (line 1): got 3, expected a valid string"),
        (
            {"name": "My Search!"},
            "name (line 1): got 'My Search!', expected a name of the form "
            "[a-z0-9][a-z0-9._-]{0,63}; write for example my-search",
        ),
        ({"name": "a" * 65}, "expected a name of the form [a-z0-9][a-z0-9._-]{0,63}"),
        ({"name": "a\n"}, "expected a name of the form"),
        ({"name": "../a"}, "write for example a"),
        ({"task": None}, 'task: the key is missing; add task: what is learned, for example {"kind'),
        (
            {"task": {"kind": "genration"}},
            "task.kind (line 3): got 'genration', expected 'generation', 'summation', 'repetition' "
            "or 'records'; did you mean `generation`?",
        ),
        (
            {"task": {"kind": "generation", "train_lengths": [6, 3]}},
            "got [6, 3], expected the shortest first; write [3, 6]",
        ),
        (
            {"task": {"kind": "generation", "train_lengths": [3, "6"]}},
            "task.train_lengths.1 (line 6): got '6', expected a valid integer; give the shortest",
        ),
        (
            {"task": {"kind": "generation", "val_ood_lengths": 8}},
            "task.val_ood_lengths (line 4): got 8, expected a list such as [8, 12]; "
            "give lengths that the search is judged on, or leave it out for [8, 12]",
        ),
        (
            {"task": {"kind": "generation", "val_ood_lengths": [6, 8]}},
            "got [6, 8], expected lengths above 6, the longest in training; remove 6",
        ),
        (
            {"task": {"kind": "generation", "val_ood_lengths": [8, 8]}},
            "got [8, 8], a length is there twice",
        ),
        (
            {"task": {"kind": "generation", "test_ood_lengths": [12, 8]}},
            "got [12, 8], expected at least one length that val_ood_lengths lacks; add one, "
            "for example 18",
        ),
        ({"task": {"kind": "generation", "train_rows": 0}}, "task.train_rows (line 4): got 0"),
        ({"base_model": "bundled"}, "got 'bundled', expected a mapping of fields; known: path"),
        (
            {"base_model": {"dtype": "float8"}},
            "base_model.dtype (line 8): got 'float8', expected 'float32', 'bfloat16' or 'float16'",
        ),
        (
            {"base_model": {"attn_implementation": "flash_attention_2"}},
            "base_model.attn_implementation (line 8): got 'flash_attention_2', it takes repeated "
            "position ids for several packed sequences and cuts attention; write sdpa or eager",
        ),
        (
            {"base_model": {"attn_implementation": "sdap"}},
            "base_model.attn_implementation (line 8): got 'sdap', expected 'sdpa' or 'eager'; did "
            "you mean `sdpa`?",
        ),
        (
            {"base_model": {"device": "cpu", "device_map": "auto"}},
            "base_model.device_map (line 9): got 'auto', device_map and device: cpu exclude each "
            "other; leave one of them out",
        ),
        (
            {"base_model": {"device_map": [0, 1]}},
            "base_model.device_map (line 8): got [0, 1], expected auto, balanced, balanced_low_0, "
            "sequential, a device such as cpu, cuda or cuda:1, or a mapping of modules to devices "
            "such as",
        ),
        (
            {"base_model": {"device_map": "autoo"}},
            "base_model.device_map (line 8): got 'autoo', expected auto, balanced",
        ),
        ({"base_model": {"device_map": {"lm_head": 0.5}}}, "base_model.device_map (line 8)"),
        (
            {"base_model": {"quantization": "4bit"}},
            "base_model.quantization (line 8): got '4bit', expected 'bitsandbytes-4bit' or "
            "'bitsandbytes-8bit'; known: bitsandbytes-4bit, bitsandbytes-8bit",
        ),
        (
            {"base_model": {"trust_remote_code": True}},
            "base_model.trust_remote_code (line 8): got True, code may run only where "
            "base_model.revision is a full commit; read that code and set revision to its 40 digi",
        ),
        (
            {"base_model": {"revision": "main", "trust_remote_code": True}},
            "base_model.trust_remote_code (line 9): got True, code may run only where",
        ),
        ({"base_model": {"trust_remote_code": "yes"}}, "got 'yes', expected a valid boolean"),
        ({"data": {"seed": -1}}, "data.seed (line 8): got -1, expected greater than or equal to 0"),
        ({"data": {"seed": True}}, "data.seed (line 8): got True, expected a valid integer"),
        (
            {"space": "quikc"},
            "space.preset (line 4): got 'quikc', there is no such preset; did you mean `quick`?",
        ),
        ({"space": {}}, "space.axes (line 4): nothing is searched; give axes or a preset: quick"),
        (
            {"space": {"preset": "quick", "axes": {}}},
            "space.axes (line 6): a preset and axes exclude each other; keep one of the two",
        ),
        ({"space": {"preset": "quick", "axis": {}}}, "space.axis (line 6): got {}, the key is unk"),
        (
            {"space": {"axes": {"strategy": {"trigers": {}}}}},
            "space.axes.strategy.trigers (line 7): got {}, a trial has no such field; "
            "did you mean `triggers`?",
        ),
        (
            {"space": {"axes": {"optim": {"lr": {"choice": [0, -1]}}}}},
            "space.axes (line 5): none of 200 samples is a legal trial",
        ),
        ({"objective": "val_odd/exact_match"}, "did you mean `val_ood/exact_match`?"),
        ({"objective": "test_ood/exact_match"}, "got 'test_ood/exact_match', the search does not"),
        ({"objective": "train/loss"}, "objective (line 7): got 'train/loss', the search does not"),
        (
            {"objective": "val_ood/exact_match/9"},
            "got 'val_ood/exact_match/9', task.val_ood_lengths has no 9; choose one of 8, 12",
        ),
        (
            {"objective": "val_id/exact_match/7"},
            "got 'val_id/exact_match/7', task.train_lengths has no 7; choose one of 3, 4, 5, 6",
        ),
        (
            {"stopping": {"metric": "val_ood/exact"}},
            "stopping.metric (line 8): got 'val_ood/exact', the search does not measure that; "
            "did you mean `val_ood/exact_match`",
        ),
        (
            {"stopping": {"metric": "val_ood/exact_match/9"}},
            "stopping.metric (line 8): got 'val_ood/exact_match/9', task.val_ood_lengths has no 9",
        ),
        ({"budget": {}}, "budget.trials (line 5): the key is missing; add trials: the number of"),
        (
            {"budget": {"trials": "many"}},
            "budget.trials (line 6): got 'many', expected a valid integer; give the number of tri",
        ),
        (
            {"budget": {"trials": 4, "stepz": 2}},
            "budget.stepz (line 7): got 2, the key is unknown; did you mean `steps`?",
        ),
        ({"budget": {"trials": 4, "time_s": 0}}, "budget.time_s (line 7): got 0"),
        ({"budget": {"trials": 4, "time_s": float("inf")}}, "got inf, expected a finite number"),
        (
            {"budget": {"trials": 4, "steps": 30}},
            "stopping.min_steps: got 60, expected at most budget.steps, which is 30; lower it, ",
        ),
        ({"stopping": {"min_steps": 541}}, "stopping.min_steps (line 8): got 541, expected at mo"),
        ({"stopping": {"factor": 1}}, "stopping.factor (line 8): got 1"),
        (
            {"sampler": {"kind": "tp"}},
            "got 'tp', expected 'tpe', 'gp', 'nsga2', 'random' or 'grid'; did you mean `tpe`?",
        ),
        ({"engine": {"threads": 0}}, "engine.threads (line 8): got 0"),
        (
            {"engine": {"micro_batch_tokens": 0}},
            "engine.micro_batch_tokens (line 8): got 0, expected a whole number of at least 1",
        ),
        (
            {"engine": {"compile": True, "checkpoint_activations": True}},
            "checkpoint_activations and compile exclude each other",
        ),
        (
            {"confirm": {"seeds": 1}},
            "confirm.seeds (line 8): got 1, expected",
        ),
        ({"tracking": {"experiment": ""}}, "tracking.experiment (line 8): got ''"),
        ({"limit": {}}, "limit (line 7): got {}, the key is unknown; did you mean `limits`?"),
        (
            {"limits": {"cost/extra_tokens": 20}},
            "got 20.0, nothing of that name is known before a trial is trained; did you mean "
            "`cost/extra_tokens_pct`?",
        ),
        ({"limits": {"cost/extra_tokens_pct": -1}}, "limits.cost/extra_tokens_pct"),
        (
            {"tradeoffs": ["val_ood/exact_match"]},
            "got ['val_ood/exact_match'], val_ood/exact_match is an objective twice; remove one",
        ),
        (
            {"tradeoffs": ["val_id/exact_mach"]},
            "got 'val_id/exact_mach', the search does not measure that",
        ),
        (
            {"budget": {"trials": 2, "money": 3.0}},
            "money needs a price; add price_per_hour",
        ),
        (
            {"sampler": {"kind": "random", "warm_start": ["one"]}},
            "got ['one'], the sampler random learns from no trial",
        ),
        ({"samplr": {}}, "samplr (line 7): got {}, the key is unknown; did you mean `sampler`?"),
    ],
)
def test_a_mistake_is_named_once_with_line_and_remedy(
    file: Path, changed: dict[str, Any], message: str
) -> None:
    assert message in only_problem(written(file, **changed))


def test_all_mistakes_are_told_at_once_across_sections_and_checks(file: Path) -> None:
    file.write_text(
        """\
name: Bad Name
task: {kind: generation, train_rows: none, val_ood_lengths: [2]}
space:
  axes:
    strategy:
      name: strategy.position
      one_of:
        every:
          triggers:
            every: {kind: every, k: {int: {low: 9, high: 4}}}
    optim: {lr: {flaot: {low: 1, high: 2}}}
objective: val_ood/exact_match/7
budget: {trials: 0, stepz: 3, steps: 20}
sampler: {seed: !!int 3, kind: &kind tp}
budget: {trials: 3}
"""
    )
    problems = problems_of(file, "engine.threds=2", "nonsense", "tracking.uri=[")
    assert [problem.split(":")[0] for problem in problems] == [
        "sampler.seed (line 14, column 17)",
        "sampler.kind (line 14, column 32)",
        "budget (line 15, column 1)",
        "--set",
        "tracking.uri (--set)",
        "name (line 1)",
        "task.val_ood_lengths (line 2)",
        "task.train_rows (line 2)",
        "space.axes.strategy.triggers.every.k.int.low (line 10, under strategy.position=every)",
        "space.axes.optim.lr (line 11)",
        "budget.trials (line 13)",
        "budget.stepz (line 13)",
        "sampler.kind (line 14)",
        "engine.threds (--set engine.threds)",
        "stopping.min_steps",
    ]


def test_contradictions_are_found_beside_other_mistakes(file: Path) -> None:
    written(
        file,
        budget={"trials": "many", "steps": 30},
        objective="val_ood/exact_match/9",
        task={"kind": "generation", "val_rows": 0},
    )
    problems = problems_of(file)
    assert [problem.split(" ")[0].rstrip(":") for problem in problems] == [
        "task.val_rows",
        "budget.trials",
        "stopping.min_steps",
        "objective",
    ]


def test_an_alias_is_one_mistake_not_two(file: Path) -> None:
    written(file)
    file.write_text(file.read_text() + "engine: *shared\n")
    assert "the alias *shared is not read" in only_problem(file)


def test_several_problems_are_listed_and_one_stands_alone(file: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_search(file, ["a=1", "b=2"])
    error = caught.value
    assert str(error).startswith(f"{file}: 2 problems\n- a (--set a): got 1")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301
    with pytest.raises(ConfigError) as caught:
        load_search(file, ["a=1"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is empty; write a mapping with at least name, task, space and budget"),
        ("# nothing\n", "it is empty"),
        ("- 1\n", "got [1] at the top; write a mapping"),
        ("quick\n", "got 'quick' at the top"),
        ("a: [", "no valid YAML"),
        ("*x", "the alias *x is not read"),
    ],
)
def test_a_file_that_is_no_mapping_is_one_clear_line(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    assert message in only_problem(file)
    assert message in only_problem(file, "budget.trials=3")


def test_missing_files_and_folders_are_one_clear_line(tmp_path: Path) -> None:
    assert "there is no such file" in only_problem(tmp_path / "none.yaml")
    assert "it is a folder" in only_problem(tmp_path)


def test_a_model_built_in_python_is_checked_as_well() -> None:
    config = SearchConfig.model_validate(MINIMAL)
    assert config.budget.steps == 540
    with pytest.raises(ValidationError, match=r"stopping\.min_steps: got 60, expected at most"):
        SearchConfig.model_validate({**MINIMAL, "budget": {"trials": 1, "steps": 20}})


# --- overrides


def test_overrides_are_yaml_values_and_the_last_one_wins(file: Path) -> None:
    config = load_search(
        file,
        [
            "budget.trials=3",
            "budget.trials=4",
            "space.baselines=false",
            "tracking.uri=http://localhost:5000/a=b",
            "task.val_ood_lengths=[7, 9]",
            "engine.threads=2",
            "engine.threads=null",
        ],
    )
    assert config.budget.trials == 4
    assert (config.space.preset, config.space.baselines) == ("quick", False)
    assert config.tracking.uri == "http://localhost:5000/a=b"
    assert isinstance(config.task, GenerationTaskConfig)
    assert config.task.val_ood_lengths == (7, 9)
    assert config.engine.threads is None


def test_an_override_can_replace_the_space(file: Path) -> None:
    written(file, space={"axes": {"seed": 3}})
    config = load_search(file, ["space=quick", "space.baselines=false"])
    assert (config.space.preset, config.space.axes) == ("quick", None)
    assert not config.space.baselines


def test_an_override_can_repair_the_file(file: Path) -> None:
    written(file, budget={"trials": "many"})
    assert load_search(file, ["budget.trials=3"]).budget.trials == 3
    written(file, space=None)
    assert load_search(file, ["space=baselines"]).space.preset == "baselines"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("budget.trials", "--set: got 'budget.trials', expected dotted.key=value; write for exam"),
        ("=3", "expected dotted.key=value"),
        ("budget..trials=3", "expected dotted.key=value"),
        ("budget.trials.x=3", "budget.trials is 24, which has no fields; set that key as a whole"),
        ("budget.trials=", "budget.trials (--set budget.trials): got None, expected a valid int"),
        ("budget.trials=[", "budget.trials (--set): no valid YAML"),
        ("budget.trials=&a 3", "budget.trials (--set): the anchor &a is not read"),
        ("budgt.trials=3", "budgt (--set budgt.trials): got {'trials': 3}, the key is unknown"),
        ("budget.stepz=3", "budget.stepz (--set budget.stepz): got 3, the key is unknown; did you"),
    ],
)
def test_a_wrong_override_is_named(file: Path, override: str, message: str) -> None:
    assert message in only_problem(file, override)


def test_a_missing_space_stays_missing_beside_overrides(file: Path) -> None:
    written(file, space=None)
    assert "space: the key is missing" in only_problem(file, "budget.trials=3")


# --- keeping and comparing


def test_the_written_file_reads_back_the_same(file: Path) -> None:
    config = load_search(written(file, space={"axes": {"seed": {"choice": [1, 2]}}}))
    file.write_text(config.to_yaml())
    assert load_search(file) == config


def test_equal_configurations_have_no_differences(file: Path) -> None:
    assert config_differences(load_search(file), load_search(file, ["space=quick"])) == []


def test_budgets_may_grow_and_nothing_else_may_change(file: Path) -> None:
    written(file, budget={"trials": 24, "time_s": 60})
    old = load_search(file)
    grown = ["budget.trials=25", "budget.time_s=null"]
    assert config_differences(old, load_search(file, grown)) == []
    shrunk = ["budget.trials=23", "budget.steps=60", "budget.time_s=59.5"]
    assert config_differences(old, load_search(file, shrunk)) == [
        "budget.trials: 24 -> 23 (it may only grow)",
        "budget.steps: 540 -> 60",
        "budget.time_s: 60.0 -> 59.5 (it may only grow)",
    ]
    limited = load_search(file, ["budget.time_s=60"])
    unlimited = load_search(file, ["budget.time_s=null"])
    assert config_differences(unlimited, limited) == [
        "budget.time_s: null -> 60.0 (it may only grow)"
    ]


def test_differences_are_told_field_by_field(file: Path) -> None:
    old = load_search(file)
    new = load_search(file, ["sampler.seed=3", "engine.threads=2", "task.val_ood_lengths=[8]"])
    assert config_differences(old, new) == [
        "task.val_ood_lengths: [8, 12] -> [8]",
        "sampler.seed: 0 -> 3",
        "engine.threads: null -> 2",
    ]


def test_differences_reach_into_own_axes(file: Path) -> None:
    def with_axes(axes: dict[str, Any]) -> SearchConfig:
        return load_search(written(file, space={"axes": axes}))

    start, end = {"kind": "start"}, {"kind": "end"}
    old = with_axes({"strategy": {"triggers": {"start": start, "end": end}}})
    assert config_differences(old, with_axes({"strategy": {"triggers": {"start": start}}})) == [
        "space.axes.strategy.triggers.end.kind: end -> absent"
    ]
    swapped = with_axes({"strategy": {"triggers": {"end": end, "start": start}}})
    assert config_differences(old, swapped) == ["space.axes: the same fields in another order"]
    whole, real = with_axes({"optim": {"lr": 1}}), with_axes({"optim": {"lr": 1.0}})
    assert config_differences(whole, real) == ["space.axes.optim.lr: 1 -> 1.0"]


def test_editors_get_a_schema() -> None:
    schema = SearchConfig.model_json_schema()
    assert set(schema["required"]) == {"name", "task", "space", "budget"}
    assert schema["additionalProperties"] is False
    assert {"type": "string"} in schema["properties"]["space"]["anyOf"]
    trials = schema["$defs"]["BudgetConfig"]["properties"]["trials"]
    assert (trials["minimum"], trials["description"]) == (1, "the number of trials")


# --- the grid


M_AXIS = {"strategy": {"triggers": {"start": {"kind": "start", "m": {"choice": [1, 2, 4]}}}}}


def test_a_grid_has_every_legal_configuration_in_order(file: Path) -> None:
    changed = {"space": {"axes": M_AXIS}, "sampler": {"kind": "grid"}, "budget": {"trials": 3}}
    config = load_search(written(file, **changed))
    assert [point["strategy.triggers.start.m"] for point in config.grid()] == [1, 2, 4]
    assert load_search(written(file, **changed | {"sampler": None})).grid() == []


def test_a_grid_is_finite_and_not_smaller_than_the_budget(file: Path) -> None:
    changed = {"space": {"axes": M_AXIS}, "sampler": {"kind": "grid"}, "budget": {"trials": 4}}
    problem = only_problem(written(file, **changed))
    assert "budget.trials" in problem
    assert "the grid has 3 configurations" in problem
    assert "write 3 or less" in problem
    problem = only_problem(written(file, sampler={"kind": "grid"}))
    assert "sampler.kind" in problem
    assert "infinite" in problem


# --- a space in Python

PYTHON_SPACE = """
def mine():
    return {"strategy": {"triggers": {"start": {"kind": "start", "m": {"choice": [1, 2]}}}}}


def as_space():
    from search_spaces import Space

    return Space(mine())
"""


@pytest.mark.parametrize("function", ["mine", "as_space"])
def test_a_space_can_be_written_in_python(file: Path, function: str) -> None:
    (file.parent / "spaces.py").write_text(PYTHON_SPACE)
    config = load_search(written(file, space={"python": f"spaces.py:{function}"}))
    assert config.space.build().size() == 2
    assert config.space.python is None
    again = file.with_name("again.yaml")
    again.write_text(config.to_yaml())
    assert load_search(again) == config


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"python": "spaces.py:other"}, "spaces.py has no function 'other'; name a function"),
        ({"python": "spaces.py"}, "got 'spaces.py', it names no function; write spaces.py:my_"),
        ({"python": "there.py:mine"}, "there is no file"),
        ({"python": "spaces.py:mine", "preset": "quick"}, "python, axes and preset exclude each"),
    ],
)
def test_a_python_space_that_cannot_be_read_is_named(
    file: Path, space: dict[str, Any], message: str
) -> None:
    (file.parent / "spaces.py").write_text(PYTHON_SPACE)
    problem = only_problem(written(file, space=space))
    assert problem.startswith("space.python") and message in problem
