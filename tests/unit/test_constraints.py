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
        ("strategy.position == 2", "takes values that are no numbers"),
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
