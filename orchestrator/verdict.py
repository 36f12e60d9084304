"""From how members score on each item to what may be said: intervals, tests, a champion.

    scores of members ─► per place Y[seed, item] ─► mean with interval, per configuration
                                                └─► candidate minus best control: p, Holm, words

A place is all of test_id, or one distance of test_ood. What is judged there is the objective's own
metric, where it is known item by item, else exact match. The best control is chosen by its score on
validation data, so that the choice costs the test nothing.

Shape suffixes: S seeds, C items, N items of a split, M members.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.confirmation_record import ArmRecord, ComparisonRecord, Outcome, ScoreRecord
from orchestrator.statistics import Floats, Interval, holm, mean_interval, paired_p
from orchestrator.verdict_words import in_words, metric_of, side_of
from trainable.data import Split
from trainable.item_scores import ItemScores
from trainable.metrics import EXACT_MATCH, NLL, goodness

ALPHA = 0.05
ENOUGH_ROWS = 500  # per distance

Scores = Mapping[Split, ItemScores]  # of one arm, M in the order of its seeds


@dataclass(frozen=True)
class Place:
    """Where configurations are compared, and by what: a split, or one distance of it."""

    split: Split
    distance: int | None = None
    judged: str = EXACT_MATCH

    @property
    def metric(self) -> str:
        """Its name among the metrics."""
        name = f"{self.split}/{self.judged}"
        return name if self.distance is None else f"{name}/{self.distance}"

    def matrix(self, scores: Scores) -> Floats:
        """[S, C], whose mean is the score.

        Over several distances the k-th item of each makes one column, because tasks that make
        their rows ask the same query at each; so the columns are independent of each other.
        """
        found = scores[self.split]
        exact = self.judged == EXACT_MATCH
        score_MN = found.right_MN.astype(float) if exact else found.values_MN[self.judged]
        if self.distance is not None:
            return score_MN[:, found.distance_N == self.distance]
        distances, counts = np.unique(found.distance_N, return_counts=True)
        total_SC = np.zeros((len(score_MN), int(counts.max())))
        for distance, count in zip(distances, counts, strict=True):
            columns_SC = score_MN[:, found.distance_N == distance]
            total_SC[:, :count] += columns_SC * (total_SC.shape[1] / count)
        return total_SC / len(distances)

    def interval(self, scores_SC: Floats, *, signed: bool = False) -> Interval:
        """The mean of scores, or of differences, with what its metric allows."""
        return mean_interval(scores_SC, signed=signed, bounded=self.judged != NLL)


def judged_metric(objective: str, scores: Iterable[Scores]) -> str:
    """The objective's metric if each item of each arm has it, else exact match."""
    name = metric_of(objective)
    found = [split for one in scores for split in one.values()]
    return name if found and all(name in split.values_MN for split in found) else EXACT_MATCH


def places_of(scores: Scores, judged: str = EXACT_MATCH) -> list[Place]:
    """The places that are tested: all of test_id, each distance of test_ood."""
    found = [Place("test_id", None, judged)] if "test_id" in scores else []
    if "test_ood" in scores:
        distances = np.unique(scores["test_ood"].distance_N)
        found += [Place("test_ood", int(distance), judged) for distance in distances]
    return found


def with_scores(arm: ArmRecord, scores: Scores) -> ArmRecord:
    """An arm with its means and intervals, split means included, by all metrics there are."""
    known = [set(found.values_MN) for found in scores.values()]
    asked = []
    for judged in (EXACT_MATCH, *sorted(set.intersection(*known) if known else ())):
        asked += [Place(split, None, judged) for split in scores]
        asked += [place for place in places_of(scores, judged) if place.distance is not None]
    found = []
    for place in asked:
        scores_SC = place.matrix(scores)
        interval = place.interval(scores_SC)
        found.append(
            ScoreRecord(
                metric=place.metric,
                distance=place.distance,
                rows=_rows(place, scores),
                **interval._asdict(),
            )
        )
    return arm.model_copy(update={"scores": tuple(found)})


def compared(
    arms: Sequence[ArmRecord], scores: Mapping[str, Scores], objective: str, unit: str
) -> list[ArmRecord]:
    """The arms with each candidate compared with its best control.

    Args:
        scores: by arm; one that is not here was left out.
        objective: decides which control is best, and which side a candidate must win on.
        unit: the word for a distance.
    """
    chosen = {
        arm.key: control
        for arm in arms
        if arm.rank is not None and arm.key in scores
        if (control := best_control(arm, arms, scores, objective)) is not None
    }
    judged = judged_metric(objective, scores.values())
    asked = [(key, place) for key in chosen for place in places_of(scores[key], judged)]
    found = [_difference(scores[key], scores[chosen[key].key], place) for key, place in asked]
    corrected = holm([paired_p(difference_SC) for difference_SC in found])
    by_arm: dict[str, list[ComparisonRecord]] = {key: [] for key in chosen}
    for (key, place), difference_SC, p_holm in zip(asked, found, corrected, strict=True):
        by_arm[key].append(_comparison(place, difference_SC, p_holm))
    return [
        arm
        if arm.key not in chosen
        else arm.model_copy(
            update={
                "against": chosen[arm.key].key,
                "comparisons": tuple(by_arm[arm.key]),
                "confirmed": is_confirmed(by_arm[arm.key], objective),
                "words": in_words(arm, chosen[arm.key], by_arm[arm.key], unit),
            }
        )
        for arm in arms
    ]


def best_control(
    candidate: ArmRecord,
    arms: Sequence[ArmRecord],
    scores: Mapping[str, Scores],
    objective: str,
) -> ArmRecord | None:
    """The one of its controls that validation data prefer; none controls for itself."""
    controls = [
        arm
        for arm in arms
        if candidate.rank in arm.control_for and arm.key != candidate.key and arm.key in scores
    ]
    return max(controls, key=lambda arm: goodness(objective, _known(arm.validation)), default=None)


def is_confirmed(comparisons: Sequence[ComparisonRecord], objective: str) -> bool:
    """Whether it is better somewhere and worse nowhere, on the objective's side."""
    side = side_of(objective)
    outcomes = [c.outcome for c in comparisons if c.metric.startswith(side)]
    return "better" in outcomes and "worse" not in outcomes


def champion_of(
    arms: Sequence[ArmRecord], scores: Mapping[str, Scores], objective: str
) -> ArmRecord | None:
    """The confirmed best, or the simplest of the confirmed that do not differ from it.

    Simplest: the fewest latents per row, then the fewest in all.
    """
    confirmed = [arm for arm in arms if arm.confirmed]
    if not confirmed:
        return None
    judged = judged_metric(objective, scores.values())
    place = Place(side_of(objective), None, judged)

    def score(arm: ArmRecord) -> float:
        return goodness(place.metric, float(place.matrix(scores[arm.key]).mean()))

    best = max(confirmed, key=score)
    alike = [
        arm
        for arm in confirmed
        if arm is best or paired_p(_difference(scores[best.key], scores[arm.key], place)) > ALPHA
    ]
    return min(alike, key=lambda arm: (arm.latents_per_row, arm.latents, -score(arm)))


def thin_distances(scores: Scores) -> Iterator[str]:
    """A note on each distance with fewer items than a confirmation should have."""
    for place in places_of(scores):
        found = scores[place.split].distance_N
        for distance, rows in zip(*np.unique(found, return_counts=True), strict=True):
            if place.distance in (None, distance) and rows < ENOUGH_ROWS:
                yield (
                    f"{Place(place.split, int(distance)).metric} has {rows} items, fewer than "
                    f"{ENOUGH_ROWS}"
                )


def unseen_distances(scores: Scores, metrics: Iterable[str], unit: str) -> Iterator[str]:
    """A note on what test_ood asks that the search never measured.

    Args:
        metrics: names of what was measured on validation data.
    """
    if "test_ood" not in scores:
        return
    prefix = f"val_ood/{EXACT_MATCH}/"
    seen = {int(name.removeprefix(prefix)) for name in metrics if name.startswith(prefix)}
    new = sorted(set(scores["test_ood"].distance_N.tolist()) - seen)
    if new:
        yield f"test_ood has what val_ood lacked: {', '.join(map(str, new))} ({unit})"
    else:
        yield "test_ood has no distance that val_ood lacked: the search saw each of them"


def _difference(scores: Scores, others: Scores, place: Place) -> Floats:
    """[S, C]; what has one member alone, because nothing is trained, stands for all seeds."""
    return place.matrix(scores) - place.matrix(others)


def _comparison(place: Place, difference_SC: Floats, p_holm: float) -> ComparisonRecord:
    interval = place.interval(difference_SC, signed=True)
    outcome: Outcome = "no difference"
    if p_holm < ALPHA:
        outcome = "better" if goodness(place.metric, interval.mean) > 0 else "worse"
    return ComparisonRecord(
        metric=place.metric,
        distance=place.distance,
        p=paired_p(difference_SC),
        p_holm=p_holm,
        outcome=outcome,
        **interval._asdict(),
    )


def _rows(place: Place, scores: Scores) -> int:
    found = scores[place.split]
    if place.distance is None:
        return len(found.distance_N)
    return int((found.distance_N == place.distance).sum())


def _known(value: float | None) -> float:
    assert value is not None, "every arm that has scores has a validation score"
    return value
