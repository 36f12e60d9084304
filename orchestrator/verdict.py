"""From which items each member answers to what may be said: intervals, tests, a champion.

    scores of members ─► per place Y[seed, item] ─► mean with interval, per configuration
                                                └─► candidate minus best control: p, Holm, words

A place is all of test_id, or one distance of test_ood. The best control is chosen by its score on
validation data, so that the choice costs the test nothing.

Shape suffixes: S seeds, C items, N items of a split, M members.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.confirmation_record import ArmRecord, ComparisonRecord, Outcome, ScoreRecord
from orchestrator.statistics import Floats, holm, mean_interval, paired_p
from trainable.data import Split
from trainable.item_scores import ItemScores
from trainable.metrics import EXACT_MATCH, goodness

ALPHA = 0.05
ENOUGH_ROWS = 500  # per distance

Scores = Mapping[Split, ItemScores]  # of one arm, M in the order of its seeds


@dataclass(frozen=True)
class Place:
    """Where configurations are compared: a split, or one distance of it."""

    split: Split
    distance: int | None = None

    @property
    def metric(self) -> str:
        """Its name among the metrics."""
        name = f"{self.split}/{EXACT_MATCH}"
        return name if self.distance is None else f"{name}/{self.distance}"

    def matrix(self, scores: Scores) -> Floats:
        """[S, C], whose mean is the score.

        Over several distances the k-th item of each makes one column, because tasks that make
        their rows ask the same query at each; so the columns are independent of each other.
        """
        found = scores[self.split]
        right_MN = found.right_MN.astype(float)
        if self.distance is not None:
            return right_MN[:, found.distance_N == self.distance]
        distances, counts = np.unique(found.distance_N, return_counts=True)
        total_SC = np.zeros((len(right_MN), int(counts.max())))
        for distance, count in zip(distances, counts, strict=True):
            columns_SC = right_MN[:, found.distance_N == distance]
            total_SC[:, :count] += columns_SC * (total_SC.shape[1] / count)
        return total_SC / len(distances)


def places_of(scores: Scores) -> list[Place]:
    """The places that are tested: all of test_id, each distance of test_ood."""
    found = [Place("test_id")] if "test_id" in scores else []
    if "test_ood" in scores:
        distances = np.unique(scores["test_ood"].distance_N)
        found += [Place("test_ood", int(distance)) for distance in distances]
    return found


def with_scores(arm: ArmRecord, scores: Scores) -> ArmRecord:
    """An arm with its means and intervals, split means included."""
    asked = [Place(split) for split in scores]
    asked += [place for place in places_of(scores) if place.distance is not None]
    found = []
    for place in asked:
        scores_SC = place.matrix(scores)
        interval = mean_interval(scores_SC)
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
    asked = [(key, place) for key in chosen for place in places_of(scores[key])]
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
    """The control that validation data prefer; a candidate does not control for itself."""
    controls = [
        arm
        for arm in arms
        if arm.control is not None and arm.key != candidate.key and arm.key in scores
    ]
    return max(controls, key=lambda arm: goodness(objective, _known(arm.validation)), default=None)


def is_confirmed(comparisons: Sequence[ComparisonRecord], objective: str) -> bool:
    """Whether it is better somewhere and worse nowhere, on the objective's side."""
    side = "test_ood" if objective.startswith("val_ood") else "test_id"
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
    place = Place("test_ood" if objective.startswith("val_ood") else "test_id")

    def score(arm: ArmRecord) -> float:
        return float(place.matrix(scores[arm.key]).mean())

    best = max(confirmed, key=score)
    alike = [
        arm
        for arm in confirmed
        if arm is best or paired_p(_difference(scores[best.key], scores[arm.key], place)) > ALPHA
    ]
    return min(alike, key=lambda arm: (arm.latents_per_row, arm.latents, -score(arm)))


def in_words(
    candidate: ArmRecord, control: ArmRecord, comparisons: Sequence[ComparisonRecord], unit: str
) -> str:
    """`start4: better than start2 (…) at 26 equations by 12 to 31 points; no difference …`."""
    parts = []
    for outcome in ("better", "worse"):
        there = [c for c in comparisons if c.outcome == outcome]
        if there:
            places = ", ".join(f"{_where(c, unit)} by {_points(c)} points" for c in there)
            parts.append(f"{outcome} than {control.strategy} ({_role(control)}) {places}")
    same = [c for c in comparisons if c.outcome == "no difference"]
    if same:
        places = ", ".join(_where(c, unit) for c in same)
        than = "" if parts else f" from {control.strategy} ({_role(control)})"
        parts.append(f"no difference{than} {places}")
    return f"{candidate.strategy}: {'; '.join(parts)}"


def conclusion(champion: ArmRecord | None, arms: Sequence[ArmRecord]) -> str:
    """The champion in words, or that there is none."""
    if champion is None:
        return (
            "Nothing is confirmed: no configuration is better than its best control where the "
            "objective looks. There is no champion."
        )
    others = [arm.strategy for arm in arms if arm.confirmed and arm is not champion]
    if not others:
        return f"Champion: {champion.strategy}, the only one that is confirmed."
    return (
        f"Champion: {champion.strategy}; of the confirmed ones ({', '.join(others)} too) it is the "
        "best, or the simplest of those that do not differ from the best."
    )


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
    interval = mean_interval(difference_SC, signed=True)
    outcome: Outcome = "no difference"
    if p_holm < ALPHA:
        outcome = "better" if interval.mean > 0 else "worse"
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


def _where(comparison: ComparisonRecord, unit: str) -> str:
    if comparison.distance is None:
        return "in distribution"
    return (
        f"at distance {comparison.distance}"
        if unit == "distance"
        else f"at {comparison.distance} {unit}"
    )


def _points(comparison: ComparisonRecord) -> str:
    low, high = sorted(abs(100 * bound) for bound in (comparison.low, comparison.high))
    return f"{low:.0f} to {high:.0f}"


def _role(control: ArmRecord) -> str:
    kind = control.strategy.rstrip("0123456789")
    names = {"start": "prompt tuning", "end": "pause tokens"}
    words = control.control or ""
    return f"{names[kind]}, {words}" if kind in names else words


def _known(value: float | None) -> float:
    assert value is not None, "every arm that has scores has a validation score"
    return value
