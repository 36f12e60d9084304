"""A space's grammar: what it samples, and that every mistake in it is named."""

from __future__ import annotations

import math
import pickle
import re
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FixedTrial

from search_spaces import Space, SpaceError, check_legal, enumerate_configs
from trainable.trial import TrialConfig

EVERY = {"kind": "every", "k": {"int": {"low": 4, "high": 12, "step": 4}}, "m": {"choice": [1, 2]}}
BRANCHING: dict[str, Any] = {
    "strategy": {
        "name": "strategy.position",
        "one_of": {
            "none": {"triggers": {}},
            "every": {"triggers": {"every": EVERY}},
            "both": {
                "triggers": {
                    "every": EVERY,
                    "start": {"kind": "start", "m": {"same_as": "strategy.triggers.every.m"}},
                },
            },
        },
    },
    "optim": {"lr": {"float": {"low": 0.005, "high": 0.05, "log": True}}, "batch_rows": 8},
}


def problems_of(tree: object) -> list[str]:
    with pytest.raises(SpaceError) as caught:
        Space(tree)  # type: ignore[arg-type]
    return [str(problem) for problem in caught.value.problems]


def only_problem(tree: object) -> str:
    problems = problems_of(tree)
    assert len(problems) == 1, problems
    return problems[0]


def at_k(node: object) -> dict[str, Any]:
    return {"strategy": {"triggers": {"every": {"kind": "every", "k": node}}}}


# --- sampling


def test_children_of_a_branch_exist_only_in_it() -> None:
    space = Space(BRANCHING)
    sample = space.sample(FixedTrial({"strategy.position": "none", "optim.lr": 0.01}))
    assert sample == {"strategy": {"triggers": {}}, "optim": {"lr": 0.01, "batch_rows": 8}}


def test_a_branch_is_merged_at_its_place_and_same_as_copies() -> None:
    params = {
        "strategy.position": "both",
        "strategy.triggers.every.k": 8,
        "strategy.triggers.every.m": 2,
        "optim.lr": 0.01,
    }
    trial = FixedTrial(params)
    sample = Space(BRANCHING).sample(trial)
    assert sample["strategy"] == {
        "triggers": {
            "every": {"kind": "every", "k": 8, "m": 2},
            "start": {"kind": "start", "m": 2},
        }
    }
    assert list(sample["strategy"]["triggers"]) == ["every", "start"]  # the order of splicing
    assert trial.params == params
    assert TrialConfig.from_dict(sample).strategy.short_name == "every8x2+start2"


def test_fields_beside_a_one_of_are_merged_deeply() -> None:
    space = Space(
        {
            "strategy": {
                "triggers": {"start": {"kind": "start"}},
                "name": "strategy.size",
                "one_of": {
                    "small": {"triggers": {"start": {"m": 1}}},
                    "large": {"triggers": {"start": {"m": 8}}, "position_rule": "following"},
                },
            }
        }
    )
    large = space.sample(FixedTrial({"strategy.size": "large"}))
    assert large["strategy"] == {
        "triggers": {"start": {"kind": "start", "m": 8}},
        "position_rule": "following",
    }


def test_one_of_can_stand_for_a_single_value() -> None:
    tree = {"optim": {"batch_rows": {"one_of": {"small": 4, "large": {"choice": [16, 32]}}}}}
    tree["optim"]["batch_rows"]["name"] = "optim.batch"  # type: ignore[assignment]
    space = Space(tree)
    assert space.sample(FixedTrial({"optim.batch": "small"})) == {"optim": {"batch_rows": 4}}
    large = FixedTrial({"optim.batch": "large", "optim.batch_rows": 32})
    assert space.sample(large) == {"optim": {"batch_rows": 32}}


def test_one_of_nests() -> None:
    space = Space(
        {
            "init": {
                "name": "outer",
                "one_of": {
                    "plain": {"kind": "normal"},
                    "other": {
                        "name": "inner",
                        "one_of": {"vocab": {"kind": "vocab"}, "wide": {"scale": 3.0}},
                    },
                },
            }
        }
    )
    trial = FixedTrial({"outer": "other", "inner": "wide"})
    assert space.sample(trial) == {"init": {"scale": 3.0}}
    assert [axis.when for axis in space.axes()] == ["always", "outer=other"]
    assert space.size() == 3


def test_samples_do_not_share_state_with_the_space() -> None:
    tree: dict[str, Any] = {"strategy": {"triggers": {"start": {"kind": "start"}}}}
    space = Space(tree)
    space.sample(FixedTrial({}))["strategy"]["triggers"]["start"]["m"] = 9
    tree["strategy"]["triggers"]["start"]["m"] = 7
    assert space.sample(FixedTrial({})) == {"strategy": {"triggers": {"start": {"kind": "start"}}}}


def test_optuna_s_own_samplers_accept_the_space() -> None:
    space = Space(BRANCHING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=3))
    for _ in range(12):
        trial = study.ask()
        config = TrialConfig.from_dict(space.sample(trial))
        study.tell(trial, config.optim.lr)
        names = {axis.name for axis in space.axes()}
        assert set(trial.params) <= names
        assert ("strategy.triggers.every.k" in trial.params) == (
            trial.params["strategy.position"] != "none"
        )


# --- what a space knows of itself


def test_axes_carry_names_distributions_and_conditions() -> None:
    axes = {name: (dist, condition) for name, dist, condition in Space(BRANCHING).axes()}
    branches = ((("strategy.position", "every"),), (("strategy.position", "both"),))
    assert axes == {
        "strategy.position": (CategoricalDistribution(["none", "every", "both"]), ((),)),
        "strategy.triggers.every.k": (IntDistribution(4, 12, step=4), branches),
        "strategy.triggers.every.m": (CategoricalDistribution([1, 2]), branches),
        "optim.lr": (FloatDistribution(0.005, 0.05, log=True), ((),)),
    }


@pytest.mark.parametrize(
    ("tree", "size"),
    [
        ({}, 1),
        ({"seed": 3}, 1),
        ({"seed": {"int": {"low": 0, "high": 9, "step": 3}}}, 4),
        ({"optim": {"lr": {"float": {"low": 0.1, "high": 0.1}}}}, 1),
        ({"strategy": BRANCHING["strategy"]}, 1 + 3 * 2 + 3 * 2),
        (BRANCHING, math.inf),
        ({"seed": {"choice": [1, 2]}, "init": {"kind": {"choice": ["normal", "vocab"]}}}, 4),
    ],
)
def test_size_counts_configurations(tree: dict[str, Any], size: float) -> None:
    assert Space(tree).size() == size


def test_the_outline_names_every_field_and_branch() -> None:
    assert str(Space(BRANCHING)).splitlines() == [
        "strategy.position: one of",
        "  none",
        "    strategy.triggers = {}",
        "  every",
        "    strategy.triggers.every.kind = every",
        "    strategy.triggers.every.k: 4 to 12, step 4",
        "    strategy.triggers.every.m: 1 | 2",
        "  both",
        "    strategy.triggers.every.kind = every",
        "    strategy.triggers.every.k: 4 to 12, step 4",
        "    strategy.triggers.every.m: 1 | 2",
        "    strategy.triggers.start.kind = start",
        "    strategy.triggers.start.m: same as strategy.triggers.every.m",
        "optim.lr: 0.005 to 0.05, log",
        "optim.batch_rows = 8",
    ]


def test_a_space_survives_pickling() -> None:
    space = Space(BRANCHING)
    copy = pickle.loads(pickle.dumps(space))  # noqa: S301
    assert copy == space
    assert copy.axes() == space.axes()


# --- enumeration


def test_every_configuration_is_enumerated_once_and_replays() -> None:
    space = Space({"strategy": BRANCHING["strategy"]})
    found = list(enumerate_configs(space))
    assert len(found) == space.size()
    assert len({str(configuration.config) for configuration in found}) == len(found)
    assert [c.label for c in found[:3]] == ["none", "every, k=4, m=1", "every, k=4, m=2"]
    for label, params, config in found:
        assert space.sample(FixedTrial(dict(params))) == config, label


def test_a_fixed_space_has_one_configuration() -> None:
    (only,) = enumerate_configs(Space({"seed": 3}))
    assert (only.label, dict(only.params), only.config) == ("only", {}, {"seed": 3})


def test_an_infinite_space_is_not_enumerated() -> None:
    with pytest.raises(SpaceError, match=r"infinite.*use `choice` in place of every `float`"):
        next(enumerate_configs(Space(BRANCHING)))


# --- legality


def test_the_legal_share_counts_refused_samples() -> None:
    tree = at_k({"choice": [0, 8]})  # k=0 is no period
    assert 0.3 < check_legal(Space(tree), samples=100) < 0.7
    assert check_legal(Space(BRANCHING)) == 1.0


def test_a_space_without_a_legal_sample_names_the_most_common_reason() -> None:
    tree = {
        "seed": {"choice": [-1, -2]},
        "optim": {"lr": {"choice": [-0.5]}},
    }
    with pytest.raises(SpaceError, match=r"none of 50 samples.*50 of them.*optim\.lr=-0\.5 must"):
        check_legal(Space(tree), samples=50)
    unequal = {"a": {"kind": "start", "m": 1}, "b": {"kind": "end", "m": 2}}
    with pytest.raises(SpaceError, match="shared needs the same m"):
        check_legal(Space({"strategy": {"triggers": unequal}}), samples=5)


def test_checking_is_reproducible_and_needs_a_sample() -> None:
    space = Space(at_k({"choice": [0, 8]}))
    assert check_legal(space, samples=31, seed=1) == check_legal(space, samples=31, seed=1)
    with pytest.raises(ValueError, match="samples=0"):
        check_legal(space, samples=0)


# --- refusals


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"strategy": {"trigers": {}}}, r"strategy\.trigers: got {}, .*did you mean `triggers`"),
        ({"optm": {}}, r"optm: .*did you mean `optim`"),
        ({"optim.lr": 0.1}, r"optim\.lr: .*nest it: {optim: {lr: \.\.\.}}"),
        ({"strategy": {"triggers": {"a b": {}}}}, r"strategy\.triggers\.a b: .*letters, digits"),
        ({1: 2}, r"1: got 2, a trial has no such field"),
        ({"strategy": 3}, r"strategy: got 3, expected a mapping of fields; .*triggers"),
        ({"strategy": {"choice": [1]}}, r"strategy: .*`choice` cannot stand for nested fields"),
        ([1], r"got \[1\], expected a mapping of fields"),
        (at_k({"chioce": [1]}), r"every\.k: got {'chioce': \[1\]}, .*did you mean `choice`"),
        (at_k({}), r"every\.k: got {}, .*known: choice, int, float"),
        (at_k({"choice": [1], "int": {}}), r"every\.k: .*choice and int exclude each other"),
        (at_k({"choice": [1], "nmae": "x"}), r"every\.k\.nmae: got 'x'.*did you mean `name`"),
        (at_k({"choice": [1], "name": "a b"}), r"every\.k: got 'a b', .*dotted name"),
        (at_k({"choice": [1], "name": "a" * 251}), r"has 251 characters, of at most 250.*shorter"),
        (at_k({"choice": []}), r"every\.k\.choice: got \[\], expected a list of at least one"),
        (at_k({"choice": 3}), r"every\.k\.choice: got 3, expected a list"),
        (at_k({"choice": [1, [2]]}), r"every\.k\.choice\.1: got \[2\], .*use `one_of`"),
        (at_k({"choice": [1, 2, True]}), r"every\.k\.choice\.2: got True, .*there twice"),
        (at_k({"choice": [math.nan]}), r"every\.k\.choice\.0: got nan, .*finite"),
        (at_k({"int": 3}), r"every\.k\.int: got 3, expected a range; write {low: 1, high: 8}"),
        (at_k({"int": {"low": 1}}), r"every\.k\.int\.high: expected a whole number; add high"),
        (at_k({"int": {"low": 9, "high": 4}}), r"int\.low: got 9, .*at most high, which is 4"),
        (at_k({"int": {"low": True, "high": 4}}), r"int\.low: got True, expected a whole number"),
        (at_k({"int": {"low": 1.0, "high": 4}}), r"int\.low: got 1\.0, expected a whole number"),
        (at_k({"int": {"low": 1, "high": 2**60}}), r"int\.high: got \d+, expected a whole number"),
        (at_k({"int": {"low": 0, "high": 4, "log": True}}), r"int\.low: got 0, .*above 0"),
        (at_k({"int": {"low": 1, "high": 4, "log": 1}}), r"int\.log: got 1, .*true or false"),
        (at_k({"int": {"low": 1, "high": 4, "step": 0}}), r"int\.step: got 0, .*at least 1"),
        (at_k({"int": {"low": 1, "high": 4, "step": 2}}), r"int\.high: got 4, .*write high: 3"),
        (
            at_k({"int": {"low": 1, "high": 5, "step": 2, "log": True}}),
            r"int\.step: got 2, .*exclude each other",
        ),
        (at_k({"int": {"low": 1, "high": 5, "hihg": 2}}), r"int\.hihg: .*did you mean `high`"),
        (
            {"optim": {"lr": {"float": {"low": 0, "high": 1, "log": True}}}},
            r"optim\.lr\.float\.low: got 0, a logarithmic range must start above 0",
        ),
        (
            {"optim": {"lr": {"float": {"low": 0.1, "high": math.inf}}}},
            r"optim\.lr\.float\.high: got inf, expected a finite number",
        ),
        (
            {"optim": {"lr": {"float": {"low": 0.1, "high": 1, "step": 0.1}}}},
            r"optim\.lr\.float\.step: got 0\.1, the key is unknown",
        ),
        ({"optim": {"lr": math.inf}}, r"optim\.lr: got inf, expected a plain, finite value"),
        ({"optim": {"lr": object()}}, r"optim\.lr: got <object .*expected a plain"),
        ({"optim": {"lr": {"same_as": "sed"}}, "seed": {"choice": [1]}}, r"did you mean `seed`"),
        ({"optim": {"lr": {"same_as": 3}}}, r"optim\.lr: got 3, `same_as` needs an axis' name"),
        (
            {"optim": {"lr": {"same_as": "seed"}}, "seed": {"choice": [1]}},
            r"optim\.lr: got 'seed', the axis comes later than its copy",
        ),
        ({"one_of": {"a": {}}}, r"got '', the axis needs a dotted name"),
        ({"optim": {"one_of": {}}}, r"optim: got {}, expected a mapping from labels"),
        ({"optim": {"one_of": {1: {}}}}, r"optim: got 1, a label must be a text"),
        ({"optim": {"one_of": {"a": 3}}}, r"optim \(under optim=a\): got 3, .*mapping of fields"),
        (
            {"seed": {"one_of": {"a": 3}, "b": 1}},
            r"seed\.b: got 1, the key is unknown",
        ),
        (
            {"optim": {"lr": 0.1, "one_of": {"a": {"lr": 0.2}}}},
            r"optim\.lr \(under optim=a\): the field is set twice in one sample",
        ),
        (
            {"seed": {"choice": [1]}, "optim": {"lr": {"choice": [1], "name": "seed"}}},
            r"optim\.lr: got 'seed', the axis' name is already taken",
        ),
        (
            {"init": {"one_of": {"a": {"one_of": {"b": {}}}}}},
            r"init \(under init=a\): got 'init', .*already taken; .*`name: init_2`",
        ),
    ],
)
def test_a_mistake_is_named_once_with_path_and_remedy(tree: object, message: str) -> None:
    assert re.search(message, only_problem(tree)), only_problem(tree)


def test_all_mistakes_are_told_at_once() -> None:
    problems = problems_of(
        {
            "strategy": {"trigers": {}, "triggers": {"start": {"knd": "start"}}},
            "optim": {"lr": {"float": {"low": 2, "high": 1}}, "schedule": {"choice": []}},
            "sed": 0,
        }
    )
    assert [problem.split(":")[0] for problem in problems] == [
        "strategy.trigers",
        "strategy.triggers.start.knd",
        "optim.lr.float.low",
        "optim.schedule.choice",
        "sed",
    ]


def test_branches_share_a_name_only_with_equal_distributions() -> None:
    def space_of(second: list[int], **name: str) -> dict[str, Any]:
        axis = {"choice": second, **name}
        branches = {"a": {"batch_rows": {"choice": [1, 2]}}, "b": {"batch_rows": axis}}
        return {"optim": {"one_of": branches}}

    assert len(Space(space_of([1, 2])).axes()) == 2
    assert "`optim.batch_rows` has another distribution" in only_problem(space_of([1, 2, 4]))
    assert "another distribution" in only_problem(space_of([True, 2]))  # equal to 1 in Python
    named = Space(space_of([1, 2, 4], name="optim.batch_rows_b"))
    assert [axis.name for axis in named.axes()] == [
        "optim",
        "optim.batch_rows",
        "optim.batch_rows_b",
    ]
    sample = named.sample(FixedTrial({"optim": "b", "optim.batch_rows_b": 4}))
    assert sample == {"optim": {"batch_rows": 4}}


def test_a_copy_of_another_branch_s_axis_is_refused() -> None:
    tree = {
        "optim": {
            "one_of": {
                "a": {"batch_rows": {"choice": [1, 2]}},
                "b": {"warmup_steps": {"same_as": "optim.batch_rows"}},
            }
        }
    }
    message = only_problem(tree)
    assert "optim.warmup_steps (under optim=b)" in message
    assert "the axis exists only where optim=a" in message


def test_a_copy_may_follow_branches_that_all_declare_its_axis() -> None:
    branches = {"a": {"batch_rows": {"choice": [1, 2]}}, "b": {"batch_rows": {"choice": [1, 2]}}}
    tree = {"optim": {"one_of": branches}, "seed": {"same_as": "optim.batch_rows"}}
    sample = Space(tree).sample(FixedTrial({"optim": "b", "optim.batch_rows": 2}))
    assert sample == {"optim": {"batch_rows": 2}, "seed": 2}
    branches["c"] = {}
    assert "exists only where optim=a or optim=b" in only_problem(tree)


def test_a_broken_axis_does_not_blame_its_copies() -> None:
    tree = {"seed": {"choice": []}, "optim": {"batch_rows": {"same_as": "seed"}}}
    assert "seed.choice" in only_problem(tree)


def test_the_error_prints_all_problems_and_survives_pickling() -> None:
    with pytest.raises(SpaceError) as caught:
        Space({"sed": 0, "optm": {}})
    error = caught.value
    assert str(error).startswith("search space: 2 problems\n- sed: got 0")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301
    assert isinstance(error, ValueError)


def test_tuples_and_lists_write_the_same_space() -> None:
    assert Space({"seed": {"choice": (1, 2)}}) == Space({"seed": {"choice": [1, 2]}})
