"""Constraints between axes, and where known configurations lie in a space."""

from __future__ import annotations

from typing import Any

import pytest
from optuna.trial import FixedTrial

from search_spaces import (
    PRESETS,
    ConstraintError,
    Space,
    SpaceError,
    enumerate_configs,
    params_of,
    sample_configs,
)
from trainable.trial import TrialConfig

EVERY = {"kind": "every", "k": {"int": {"low": 2, "high": 6}}, "m": {"choice": [1, 2, 4]}}
K, M = "strategy.triggers.every.k", "strategy.triggers.every.m"


def space(*constraints: str, **more: Any) -> Space:
    branches = {"none": {"triggers": {}}, "every": {"triggers": {"every": EVERY}}}
    strategy = {"name": "strategy.position", "one_of": branches}
    return Space({"strategy": strategy, "constraints": list(constraints), **more})


def pairs(found: Space) -> set[tuple[int, int]]:
    params = [point.params for point in enumerate_configs(found)]
    return {(one[K], one[M]) for one in params if K in one}


def test_what_breaks_a_constraint_is_no_configuration() -> None:
    found = space(f"{M} * 2 <= {K}")
    assert pairs(found) == {(k, m) for k in range(2, 7) for m in (1, 2, 4) if m * 2 <= k}
    assert len(list(enumerate_configs(found))) == len(pairs(found)) + 1, "`none` has neither axis"
    assert found.size() == 16, "the size leaves constraints aside"


def test_samples_keep_all_constraints() -> None:
    found = space(f"{M} < {K}", f"{K} != 3")
    drawn = [
        (t["every"]["k"], t["every"]["m"])
        for t in (config["strategy"]["triggers"] for config in sample_configs(found, 200))
        if t
    ]
    assert set(drawn) == {(k, m) for k in (2, 4, 5, 6) for m in (1, 2, 4) if m < k}


def test_a_replayed_sample_that_breaks_one_is_refused_with_its_values() -> None:
    with pytest.raises(ConstraintError, match=rf"constraint {M} >= {K}: .*m=1, .*k=4"):
        space(f"{M} >= {K}").sample(FixedTrial({"strategy.position": "every", K: 4, M: 1}))


def test_constraints_that_exclude_everything_are_told() -> None:
    found = Space({"optim": {"lr": {"float": {"low": 0.1, "high": 0.2}}},
                   "constraints": ["optim.lr > 1"]})  # fmt: skip
    with pytest.raises(SpaceError, match=r"1000 draws in a row were refused.*optim.lr > 1"):
        list(sample_configs(found, 1))


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        ("strategy.triggers.every.kk > 2", "did you mean `strategy.triggers.every.k`"),
        ("strategy.position == 2", "'2' is no choice of strategy.position; write one of none, e"),
        ("strategy.position != evry", "'evry' is no choice of .*write one of none, every"),
        (f"{K} < 3 or strategy.position == x", "'x' is no choice of strategy.position"),
        (f"strategy.position == {K}", "is no choice of strategy.position"),
        ("strategy.position < every", "strategy.position .*`<` cannot order.*by `==` or `!=`"),
        ("strategy.position * 2 < 4", "have no product; .*`strategy.position != none`"),
        ("strategy.position != 'none", "expected two sides"),
        (f"{K} < 3 or {M}", "expected two sides"),
        ("1 < 2", "names no axis"),
        (K, "expected two sides"),
        (f"{K} = 2", "expected two sides"),
        (7, "expected two sides"),
    ],
)
def test_a_wrong_constraint_is_named(constraint: Any, message: str) -> None:
    with pytest.raises(SpaceError, match=message) as caught:
        space(constraint)
    (problem,) = caught.value.problems
    assert (problem.path, problem.location) == ("constraints.0", ("constraints", 0))


RULE = "strategy.position_rule"
TEXTS = {
    "strategy": {
        "position_rule": {"choice": ["following", "own"]},
        "name": "strategy.position",
        "one_of": {
            "start": {"triggers": {"start": {"kind": "start"}}},
            "one, or two": {"triggers": {"every": EVERY}},
        },
    },
    "optim": {"clip_norm": {"choice": [None, 1.0]}},
}
POSITION, CLIP = "strategy.position", "optim.clip_norm"


def chosen(*constraints: str) -> set[tuple[str, str, float | None]]:
    found = Space({**TEXTS, "constraints": list(constraints)})
    params = [point.params for point in enumerate_configs(found)]
    return {(one[POSITION], one[RULE], one[CLIP]) for one in params}


def test_two_choices_can_be_kept_apart() -> None:
    every = chosen()
    kept = chosen(f"{POSITION} != start or {RULE} != own")
    assert every - kept == {("start", "own", None), ("start", "own", 1.0)}
    assert kept < every


@pytest.mark.parametrize(
    ("constraint", "kept"),
    [
        (f"{POSITION} == start", {"start"}),
        (f"start == {POSITION}", {"start"}),
        (f"{POSITION} == 'one, or two'", {"one, or two"}),
        (f'{POSITION} != "one, or two"', {"start"}),
        (f"{POSITION} != start or {K} < 0", {"one, or two", "start"}),
        (f"{POSITION} == {RULE}", set()),
    ],
)
def test_an_axis_of_texts_is_compared_with_its_choices(constraint: str, kept: set[str]) -> None:
    """The fifth: a comparison with an axis that does not exist holds."""
    assert {position for position, *_ in chosen(constraint)} == kept


@pytest.mark.parametrize(("word", "kept"), [("null", None), ("1", 1.0), ("1.0", 1.0)])
def test_choices_that_are_no_texts_are_written_as_in_yaml(word: str, kept: float | None) -> None:
    assert {clip for *_, clip in chosen(f"{CLIP} == {word}")} == {kept}


def test_a_sample_that_breaks_an_alternative_is_refused_with_all_its_values() -> None:
    found = Space({**TEXTS, "constraints": [f"{POSITION} != start or {RULE} != own"]})
    params = {POSITION: "start", RULE: "own", CLIP: None}
    with pytest.raises(ConstraintError, match=r"position=start, strategy.position_rule=own"):
        found.sample(FixedTrial(params))


def test_constraints_must_be_a_list() -> None:
    with pytest.raises(SpaceError, match="expected a list of texts"):
        Space({"seed": 0, "constraints": "seed < 1"})


def test_the_outline_ends_with_the_constraints() -> None:
    assert str(space(f"{M} < {K}")).splitlines()[-1] == f"constraint: {M} < {K}"


# --- where a configuration lies


@pytest.mark.parametrize("name", ["quick", "full"])
def test_every_paper_configuration_lies_in_the_wide_presets(name: str) -> None:
    found = PRESETS[name]()
    for point in enumerate_configs(PRESETS["paper"]()):
        wanted = TrialConfig.from_dict(point.config)
        params = params_of(found, wanted)
        assert params is not None
        replayed = TrialConfig.from_dict(found.sample(FixedTrial(params)))
        assert replayed.strategy == wanted.strategy
        assert replayed.optim == wanted.optim


def test_what_a_space_lacks_lies_nowhere_in_it() -> None:
    wanted = TrialConfig.from_dict({"strategy": {"triggers": {"every": {"kind": "every", "k": 9}}}})
    assert params_of(space(), wanted) is None
    assert params_of(PRESETS["baselines"](), wanted) is None


def test_a_value_outside_the_strategy_that_a_space_lacks_is_left_open() -> None:
    found = space(optim={"lr": {"float": {"low": 0.1, "high": 0.2}}})
    wanted = TrialConfig.from_dict({"strategy": {"triggers": {"every": {"kind": "every", "k": 4}}}})
    assert params_of(found, wanted) == {"strategy.position": "every", K: 4, M: 1}


def test_a_configuration_that_breaks_a_constraint_lies_nowhere() -> None:
    wanted = TrialConfig.from_dict({"strategy": {"triggers": {"every": {"kind": "every", "k": 4}}}})
    assert params_of(space(f"{K} < 4"), wanted) is None
