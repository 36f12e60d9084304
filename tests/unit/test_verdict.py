"""From item scores to words: places, comparisons, the champion."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from orchestrator.confirmation_record import ArmRecord
from orchestrator.verdict import (
    Place,
    Scores,
    champion_of,
    compared,
    conclusion,
    places_of,
    thin_distances,
    unseen_distances,
    with_scores,
)
from trainable.item_scores import ItemScores

OBJECTIVE = "val_ood/exact_match"
ROWS = 200


def items(chances: dict[int, float], seed: int, seeds: int = 5, rows: int = ROWS) -> ItemScores:
    """Right with a chance of its own at each distance, by shared luck per item."""
    luck = {d: np.random.default_rng(d).random(rows) for d in chances}
    rng = np.random.default_rng(1000 + seed)
    parts = [
        (luck[d] + 0.05 * rng.normal(size=(seeds, rows))) < chance for d, chance in chances.items()
    ]
    distances = np.repeat(list(chances), rows)
    return ItemScores(distances, np.arange(len(distances)), np.concatenate(parts, axis=1))


def scores_of(near: float, far: float, seed: int, seeds: int = 5) -> Scores:
    return {
        "test_id": items({3: near, 4: near}, seed, seeds),
        "test_ood": items({8: far, 12: far}, seed, seeds),
    }


def arm(key: str, **fields: Any) -> ArmRecord:
    known: dict[str, Any] = {
        "key": key,
        "strategy": key,
        "config": {},
        "rank": None,
        "search_score": None,
        "search_trials": [],
        "control": None,
        "latents": 2,
        "latents_per_row": 2.0,
        "uids": [],
        "validation": 0.5,
    }
    return ArmRecord(**known | fields)


CONTROLS = [
    arm("none", control="no latents", validation=0.1, latents=0),
    arm("start2", control="equal parameters", validation=0.4),
]
CONTROL_SCORES = {"none": scores_of(0.5, 0.1, 0, seeds=1), "start2": scores_of(0.5, 0.3, 1)}


def judged(*candidates: tuple[ArmRecord, Scores]) -> tuple[list[ArmRecord], dict[str, Scores]]:
    scores = CONTROL_SCORES | {one.key: found for one, found in candidates}
    arms = [*(one for one, _ in candidates), *CONTROLS]
    return compared(arms, scores, OBJECTIVE, "equations"), scores


def test_places_are_the_whole_of_test_id_and_each_distance_out_of_it() -> None:
    assert [p.metric for p in places_of(CONTROL_SCORES["none"])] == [
        "test_id/exact_match",
        "test_ood/exact_match/8",
        "test_ood/exact_match/12",
    ]


def test_a_split_s_mean_is_unweighted_over_distances() -> None:
    right = np.array([[True, True, True, False, False, True]])
    found = ItemScores(np.array([1, 1, 1, 1, 2, 2]), np.arange(6), right)
    matrix = Place("test_id").matrix({"test_id": found})
    assert matrix.shape == (1, 4)
    assert matrix.mean() == pytest.approx((0.75 + 0.5) / 2)


def test_the_best_control_is_chosen_on_validation_data() -> None:
    arms, _ = judged((arm("comma2", rank=1), scores_of(0.5, 0.9, 2)))
    assert arms[0].against == "start2"


def test_a_candidate_that_is_better_out_of_distribution_is_confirmed_and_said_to_be() -> None:
    arms, scores = judged((arm("comma2", rank=1), scores_of(0.5, 0.9, 2)))
    assert arms[0].confirmed
    words = arms[0].words or ""
    assert words.startswith("comma2: better than start2 (prompt tuning, equal parameters) at 8 eq")
    assert words.endswith("points; no difference in distribution")
    assert champion_of(arms, scores, OBJECTIVE) is arms[0]


def test_one_that_does_not_differ_is_not_confirmed_and_there_is_no_champion() -> None:
    arms, scores = judged((arm("comma2", rank=1), scores_of(0.5, 0.3, 2)))
    assert not arms[0].confirmed
    champion = champion_of(arms, scores, OBJECTIVE)
    assert champion is None
    assert conclusion(champion, arms).startswith("Nothing is confirmed")


def test_better_at_one_distance_does_not_excuse_worse_at_another() -> None:
    mixed: Scores = {
        "test_id": items({3: 0.5}, 3),
        "test_ood": items({8: 0.9, 12: 0.05}, 3),
    }
    controls: dict[str, Scores] = {
        key: {"test_id": items({3: 0.5}, 4), "test_ood": found["test_ood"]}
        for key, found in CONTROL_SCORES.items()
    }
    arms = compared(
        [arm("comma2", rank=1), *CONTROLS], controls | {"comma2": mixed}, OBJECTIVE, "equations"
    )
    assert {c.outcome for c in arms[0].comparisons} >= {"better", "worse"}
    assert not arms[0].confirmed


def test_of_those_alike_the_simplest_is_champion() -> None:
    long = arm("start2+comma2", rank=1, latents_per_row=9.0, latents=4)
    short = arm("comma1", rank=2, latents_per_row=4.0, latents=1)
    weak = arm("end1", rank=3, latents_per_row=1.0, latents=1)
    arms, scores = judged(
        (long, scores_of(0.5, 0.91, 5)),
        (short, scores_of(0.5, 0.9, 6)),
        (weak, scores_of(0.5, 0.6, 7)),
    )
    assert [one.confirmed for one in arms[:3]] == [True, True, True]
    champion = champion_of(arms, scores, OBJECTIVE)
    assert champion is not None
    assert champion.key == "comma1"


def test_a_control_among_the_candidates_is_no_control_of_itself() -> None:
    both = arm("start2", rank=1, control="equal parameters", validation=0.9)
    arms = compared([both, CONTROLS[0]], CONTROL_SCORES, OBJECTIVE, "equations")
    assert arms[0].against == "none"


def test_what_was_left_out_is_compared_with_nothing() -> None:
    left_out = arm("comma2", rank=1, left_out="too long")
    arms = compared([left_out, *CONTROLS], CONTROL_SCORES, OBJECTIVE, "equations")
    assert arms[0] == left_out


def test_an_arm_has_its_means_with_intervals() -> None:
    found = with_scores(arm("comma2"), scores_of(0.5, 0.9, 2))
    score = found.score("test_ood/exact_match/12")
    assert score is not None
    assert (score.rows, score.low < score.mean < score.high) == (ROWS, True)
    whole = found.score("test_ood/exact_match")
    assert whole is not None
    assert whole.rows == 2 * ROWS


def test_thin_data_and_seen_distances_are_said() -> None:
    scores = CONTROL_SCORES["none"]
    assert len(list(thin_distances(scores))) == 4
    (note,) = unseen_distances(scores, ["val_ood/exact_match/8"], "equations")
    assert note == "test_ood has what val_ood lacked: 12 (equations)"
    seen = ["val_ood/exact_match/8", "val_ood/exact_match/12"]
    assert "no distance" in next(unseen_distances(scores, seen, "equations"))
