"""Which configurations are confirmed, and against what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from orchestrator.arms import (
    NONE,
    TRAINED_CONTROLS,
    Arm,
    control_arms,
    top_arms,
    with_controls,
    with_lr,
)
from orchestrator.ledger import LedgerTrial, Role, TrialStatus
from trainable.item_scores import Insertion
from trainable.strategy import InsertionStrategy
from trainable.trial import TrialConfig

OBJECTIVE = "val_ood/exact_match"
COMMA = {"kind": "delimiter", "pattern": ",", "m": 2}


def strategy(**triggers: dict[str, Any]) -> dict[str, Any]:
    return {"triggers": triggers, "specialization": "by_trigger"}


def trial(number: int, score: float, triggers: dict[str, Any], **changed: Any) -> LedgerTrial:
    fields: dict[str, Any] = {
        "number": number,
        "config": TrialConfig.from_dict({"strategy": {"triggers": triggers}, "seed": 0}),
        "role": Role.SEARCH,
        "status": TrialStatus.COMPLETE,
        "params": {},
        "step": 8,
        "metrics": {OBJECTIVE: score},
        "reports": {8: score},
        "attempts": 1,
        "reason": None,
    }
    return LedgerTrial(**fields | changed)


def start(m: int) -> dict[str, Any]:
    return {"start": {"kind": "start", "m": m}}


def seeded(m: int, seed: int) -> TrialConfig:
    return TrialConfig.from_dict({"strategy": {"triggers": start(m)}, "seed": seed})


def measured(strategies: Sequence[InsertionStrategy]) -> list[Insertion]:
    """Rows of 40 tokens, with 6 latents at 3 sites by the leader."""
    dense = [t.rate == 1.0 for s in strategies for t in s.triggers.values()]
    return [Insertion(40.0, 40.0, 40.0) if d else Insertion(6.0, 3.0, 40.0) for d in dense]


def test_the_best_complete_trials_are_taken_and_baselines_are_not() -> None:
    trials = [
        trial(0, 0.9, start(1), role=Role.BASELINE),
        trial(1, 0.5, start(2)),
        trial(2, 0.8, start(3), status=TrialStatus.PRUNED),
        trial(3, 0.7, start(4)),
        trial(4, 0.6, {}),
    ]
    top = top_arms(trials, OBJECTIVE, 3)
    assert [(arm.rank, arm.search_trials, arm.search_score) for arm in top] == [
        (1, (3,), 0.7),
        (2, (1,), 0.5),
    ]


def test_what_was_stopped_early_is_taken_where_there_is_nothing_else() -> None:
    pruned = TrialStatus.PRUNED
    trials = [trial(n, n / 10, start(n + 1), status=pruned) for n in range(3)]
    assert [arm.search_trials for arm in top_arms(trials, OBJECTIVE, 2)] == [(2,), (1,)]


def test_seeds_of_one_configuration_are_one_arm_with_their_mean() -> None:
    trials = [
        trial(0, 0.9, {}, config=seeded(2, 0)),
        trial(1, 0.1, {}, config=seeded(2, 1)),
        trial(2, 0.6, {}, config=seeded(4, 0)),
    ]
    top = top_arms(trials, OBJECTIVE, 2)
    assert [(arm.search_score, arm.search_trials) for arm in top] == [(0.6, (2,)), (0.5, (0, 1))]


def test_less_is_better_for_some_metrics() -> None:
    trials = [trial(n, 0.0, start(n + 1), metrics={"val_id/nll": float(n)}) for n in (1, 0, 2)]
    assert [a.search_trials for a in top_arms(trials, "val_id/nll", 2)] == [(0,), (1,)]


def test_controls_have_equal_parameters_equal_tokens_and_equal_sites() -> None:
    leader = top_arms([trial(0, 0.5, {"comma": COMMA})], OBJECTIVE, 1)
    controls = {arm.config.strategy.short_name: arm for arm in control_arms(leader, measured)}
    assert {name: arm.control for name, arm in controls.items()} == {
        "none": NONE,
        "start2": "equal parameters (no. 1)",
        "start6": "equal inserted tokens (no. 1)",
        "end2": "equal parameters (no. 1)",
        "end6": "equal inserted tokens (no. 1)",
        "random0.075x2": "as many sites, at random (no. 1)",
    }
    assert {arm.control_for for arm in controls.values()} == {(1,)}
    assert len(controls) == TRAINED_CONTROLS + 1  # no latents
    assert all(a.config.optim == leader[0].config.optim for a in controls.values())


def test_a_candidate_that_is_a_control_is_trained_once_and_plays_both_parts() -> None:
    trials = [trial(0, 0.9, {"comma": COMMA}), trial(1, 0.8, start(2))]
    candidates = top_arms(trials, OBJECTIVE, 2)
    arms = with_controls(candidates, control_arms(candidates, measured))
    both = [arm for arm in arms if arm.config.strategy.short_name == "start2"]
    assert [(arm.rank, arm.control) for arm in both] == [(2, "equal parameters (no. 1)")]
    assert both[0].control_for == (1,)  # not for itself
    assert len({arm.key for arm in arms}) == len(arms)


def test_equal_controls_are_one_that_says_both() -> None:
    leader = top_arms([trial(0, 0.5, {"start": {"kind": "start", "m": 6}})], OBJECTIVE, 1)
    words = {a.config.strategy.short_name: a.control for a in control_arms(leader, measured)}
    assert words["end6"] == "equal parameters, equal inserted tokens (no. 1)"
    assert "start6" not in words  # it does not control for itself


def by_size(strategies: Sequence[InsertionStrategy]) -> list[Insertion]:
    """Three sites a row, so that each strategy inserts as much as its m says."""
    return [
        Insertion(40.0, 40.0, 40.0)
        if any(t.rate == 1.0 for t in s.triggers.values())
        else Insertion(3.0 * s.latent_count, 3.0, 40.0)
        for s in strategies
    ]


def two_sizes() -> list[Arm]:
    trials = [trial(0, 0.9, {"comma": COMMA}), trial(1, 0.8, {"comma": COMMA | {"m": 6}})]
    return top_arms(trials, OBJECTIVE, 2)


def test_each_candidate_has_controls_of_its_own_size_and_shares_equal_ones() -> None:
    controls = {a.config.strategy.short_name: a for a in control_arms(two_sizes(), by_size)}
    assert {name: (arm.control, arm.control_for) for name, arm in controls.items()} == {
        "none": (NONE, (1, 2)),
        "start2": ("equal parameters (no. 1)", (1,)),
        "start6": ("equal inserted tokens (no. 1), equal parameters (no. 2)", (1, 2)),
        "start18": ("equal inserted tokens (no. 2)", (2,)),
        "end2": ("equal parameters (no. 1)", (1,)),
        "end6": ("equal inserted tokens (no. 1), equal parameters (no. 2)", (1, 2)),
        "end18": ("equal inserted tokens (no. 2)", (2,)),
        "random0.075x2": ("as many sites, at random (no. 1)", (1,)),
        "random0.075x6": ("as many sites, at random (no. 2)", (2,)),
    }


def test_the_first_s_controls_alone_are_for_all_and_say_whose_they_are() -> None:
    controls = control_arms(two_sizes(), by_size, "first")
    names = [arm.config.strategy.short_name for arm in controls]
    assert names == ["none", "start2", "start6", "end2", "end6", "random0.075x2"]
    assert {arm.control_for for arm in controls} == {(1, 2)}
    assert controls[2].control == "equal inserted tokens (no. 1)"


def test_candidates_are_of_distinct_strategies() -> None:
    def tried(lr: float, m: int) -> TrialConfig:
        document = {"strategy": {"triggers": start(m)}, "optim": {"lr": lr}, "seed": 0}
        return TrialConfig.from_dict(document)

    trials = [
        trial(0, 0.9, {}, config=tried(0.1, 2)),
        trial(1, 0.8, {}, config=tried(0.2, 2)),
        trial(2, 0.5, {}, config=tried(0.1, 4)),
    ]
    top = top_arms(trials, OBJECTIVE, 2)
    assert [(arm.rank, arm.search_trials) for arm in top] == [(1, (0,)), (2, (2,))]


@pytest.mark.parametrize("factor", [0.3, 3.0])
def test_another_learning_rate_is_another_arm_in_the_same_part(factor: float) -> None:
    leader = top_arms([trial(0, 0.5, {"comma": COMMA})], OBJECTIVE, 1)
    arm = control_arms(leader, measured)[1]
    other = with_lr(arm, factor)
    assert other.config.optim.lr == pytest.approx(factor * arm.config.optim.lr)
    assert (other.key != arm.key, other.control) == (True, arm.control)
