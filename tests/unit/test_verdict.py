"""From item scores to words: places, comparisons, the champion."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from orchestrator.confirmation_record import (
    ArmRecord,
    ComparisonRecord,
    ConfirmationRecord,
    Outcome,
)
from orchestrator.verdict import (
    Place,
    Scores,
    champion_of,
    compared,
    judged_metric,
    places_of,
    thin_distances,
    unseen_distances,
    with_scores,
)
from orchestrator.verdict_words import conclusion, in_words, judging, retold, role_of
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


ALL: dict[str, Any] = {"control_for": (1, 2, 3)}
CONTROLS = [
    arm("none", control="no latents", validation=0.1, latents=0, **ALL),
    arm("start2", control="equal parameters", validation=0.4, latents_per_row=2.0, **ALL),
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
    comma = arm("comma2", rank=1, latents_per_row=9.0)
    arms, scores = judged((comma, scores_of(0.5, 0.9, 2)))
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
    words = conclusion(champion, arms, OBJECTIVE)
    assert words.startswith("Nothing is confirmed: by exact_match on test_ood, no configuration")


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
    both = arm("start2", rank=1, control="equal parameters", validation=0.9, **ALL)
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


def test_a_candidate_is_compared_with_its_own_controls_alone() -> None:
    dearer = arm("start9", control="equal inserted tokens", control_for=(2,), validation=0.9)
    scores = CONTROL_SCORES | {"start9": scores_of(0.5, 0.9, 3), "comma2": scores_of(0.5, 0.9, 2)}
    arms = compared([arm("comma2", rank=1), *CONTROLS, dearer], scores, OBJECTIVE, "equations")
    assert arms[0].against == "start2"


@pytest.mark.parametrize(
    ("control", "candidate", "words"),
    [
        (("start2", 2, 2.0), (2, 9.0), "prompt tuning, equal parameters"),
        (("start9", 9, 9.0), (2, 9.2), "prompt tuning, equal inserted tokens"),
        (("start40", 40, 40.0), (20, 60.0), "prompt tuning, 40 latents a row against its 60"),
        (("end8", 8, 8.0), (8, 8.0), "pause tokens, equal parameters, equal inserted tokens"),
        (("random0.1x2", 2, 39.9), (2, 40.0), "as many latents at random sites"),
        (("random0.1x2", 2, 39.9), (2, 60.0), "random, 39.9 latents a row against its 60"),
        (("none", 0, 0.0), (2, 60.0), "no latents"),
    ],
)
def test_a_control_is_called_equal_only_where_it_is(
    control: tuple[str, int, float], candidate: tuple[int, float], words: str
) -> None:
    name, latents, per_row = control
    other = arm(name, latents=latents, latents_per_row=per_row)
    assert role_of(other, arm("c", latents=candidate[0], latents_per_row=candidate[1])) == words


def comparison(
    low: float, mean: float, high: float, outcome: Outcome, metric: str
) -> ComparisonRecord:
    known: dict[str, Any] = {"metric": metric, "distance": None, "p": 0.0, "p_holm": 0.0}
    return ComparisonRecord(**known, low=low, mean=mean, high=high, outcome=outcome)


@pytest.mark.parametrize(
    ("low", "mean", "high", "outcome", "words"),
    [
        (0.12, 0.2, 0.31, "better", "by 12 to 31 points"),
        (-0.03, 0.2, 0.34, "better", "by -3 to 34 points"),
        (-0.31, -0.2, -0.12, "worse", "by 12 to 31 points"),
        (-0.34, -0.2, 0.03, "worse", "by -3 to 34 points"),
    ],
)
def test_an_interval_over_zero_is_told_as_one(
    low: float, mean: float, high: float, outcome: Outcome, words: str
) -> None:
    found = comparison(low, mean, high, outcome, "test_id/exact_match")
    assert in_words(arm("c"), arm("start2"), [found], "distance").endswith(words)


def of_losses(mean: float, seed: int) -> Scores:
    """All wrong, but with losses of their own."""
    rng = np.random.default_rng(seed)
    nll = mean + 0.1 * rng.normal(size=(5, ROWS))
    wrong = np.zeros((5, ROWS), dtype=bool)
    return {"test_id": ItemScores(np.full(ROWS, 3), np.arange(ROWS), wrong, {"nll": nll})}


def test_what_is_judged_is_the_objective_s_own_metric() -> None:
    scores = {"comma2": of_losses(1.5, 0), "start2": of_losses(2.0, 1), "none": of_losses(9.0, 2)}
    none, start2 = (one.model_copy(update={"validation": v}) for one, v in zip(
        CONTROLS, (9.0, 2.0), strict=True))  # fmt: skip
    arms = compared([arm("comma2", rank=1), none, start2], scores, "val_id/nll", "equations")
    (found,) = arms[0].comparisons
    assert (found.metric, found.outcome) == ("test_id/nll", "better")
    assert found.low < -0.5 < found.high  # no score's bounds
    assert arms[0].confirmed
    assert (arms[0].words or "").endswith("in distribution by 0.49 to 0.51 nats")
    assert champion_of(arms, scores, "val_id/nll") is arms[0]
    assert judging("val_id/nll", "nll") == [
        "Judged by nll, the objective's metric, of which less is better."
    ]
    means = with_scores(arm("comma2"), scores["comma2"])
    assert [score.metric for score in means.scores] == ["test_id/exact_match", "test_id/nll"]


def test_what_cannot_be_judged_item_by_item_is_said() -> None:
    objective = "val_ood/normalised_match"
    assert judged_metric(objective, CONTROL_SCORES.values()) == "exact_match"
    (line,) = judging(objective, "exact_match")
    assert "not by the objective's normalised_match" in line
    assert "by exact_match on test_ood" in conclusion(None, [], objective, "exact_match")
    assert judging(OBJECTIVE, "exact_match") == []


def test_a_record_of_before_is_told_with_words_that_are_true_of_it() -> None:
    gap = comparison(-0.03, 0.2, 0.34, "better", "test_ood/exact_match/12")
    sized: dict[str, Any] = {"latents": 20, "latents_per_row": 60.0, "confirmed": True}
    untrue = "comma2: better than start40 (prompt tuning, equal inserted tokens) by 3 to 34"
    arms = [
        arm("end40", rank=1, latents=40, latents_per_row=40.0),
        arm("comma2", rank=2, against="start40", comparisons=(gap,), words=untrue, **sized),
        arm("start40", control="equal parameters, equal inserted tokens", latents_per_row=40.0),
    ]
    record = ConfirmationRecord(
        search="s", inputs="", state="confirmed", objective=OBJECTIVE, champion="comma2",
        champion_uid=None, artifact=None, seeds=5, steps=9, arms=arms, verdict=[untrue],
    )  # fmt: skip
    told = retold(record, "equations")
    assert told is not None
    assert told.verdict == [
        "comma2: better than start40 (prompt tuning, 40 latents a row against its 60) in "
        "distribution by -3 to 34 points",
        "Champion: comma2, the only one that is confirmed.",
    ]
    assert told.arms[2].control == "equal parameters, equal inserted tokens (no. 1)"
    assert retold(told, "equations") == told
    assert retold(None, "equations") is None
