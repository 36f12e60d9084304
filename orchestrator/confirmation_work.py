"""The work of a confirmation, once an engine is there: train, score, judge, tell."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from orchestrator.arms import Arm, control_arms, with_controls, with_lr
from orchestrator.champion import save_member, tell_champion
from orchestrator.confirmation_record import ArmRecord, ConfirmationRecord
from orchestrator.files import write_atomic
from orchestrator.item_tables import arm_scores, member_metrics, read_items, write_items
from orchestrator.ledger import LedgerTrial, TrialStatus
from orchestrator.members import Bench, Member, MemberReport, begun
from orchestrator.opening import state_told
from orchestrator.report.telling import tell_report
from orchestrator.results import SearchState, build_result
from orchestrator.tracking import finish_shipping, start_shipper
from orchestrator.verdict import (
    Scores,
    champion_of,
    compared,
    judged_metric,
    thin_distances,
    unseen_distances,
    with_scores,
)
from orchestrator.verdict_words import conclusion, judging
from trainable.item_scores import Insertion
from trainable.metrics import goodness
from trainable.strategy import InsertionStrategy

if TYPE_CHECKING:
    from orchestrator.confirmation import Confirmation

logger = logging.getLogger(__name__)

_SEEDS_FROM, _TUNING_SEEDS_FROM = 1_000, 900  # a search's seeds are small numbers


@dataclass
class Work:
    """A confirmation with an engine at hand."""

    of: Confirmation
    bench: Bench
    base_model: Mapping[str, Any]
    trials: Sequence[LedgerTrial]
    candidates: Sequence[Arm]
    inputs: str

    def run(self) -> ConfirmationRecord:
        """Train, score, judge, tell."""
        of = self.of
        of.events.append("confirm_started", {"state": "running"})
        shipper = start_shipper(of.folder.path, of.uri)
        try:
            record = self._judge(self._arms())
            of.events.fence()
            write_atomic(of.folder.confirmation, record.model_dump_json(indent=1).encode())
            tell_champion(of.folder, of.events, record)
            self._tell_report()
            document = record.model_dump(mode="json")
            ended: dict[str, Any] = {"state": record.state, "verdict": record.verdict}
            files = [str(self._items_file.relative_to(of.folder.path))]
            ended |= {"documents": {"confirmation.json": document}, "files": files}
            of.events.append("confirm_ended", ended)
        except BaseException:
            of.events.append("confirm_ended", {"state": "interrupted"})
            raise
        finish_shipping(of.folder.path, of.uri, of.events.next_seq - 1, shipper)
        return record

    def _tell_report(self) -> None:
        """Write the search's report again: it shows the verdict now."""
        of = self.of
        if not of.config.tracking.report:
            return
        running = any(trial.status is TrialStatus.RUNNING for trial in self.trials)
        ended: SearchState = "spent" if state_told(of.events) == "spent" else "complete"
        state: SearchState = "interrupted" if running and ended != "spent" else ended
        result = build_result(of.config, of.folder, self.trials, state=state, tracking_uri=of.uri)
        tell_report(of.events, of.folder, result)

    @property
    def _items_file(self) -> Path:
        return self.of.folder.confirm / "items.parquet"

    def _arms(self) -> list[Arm]:
        """Candidates and controls, each control with the best learning rate of its grid."""
        whose = self.of.config.confirm.controls
        controls = control_arms(self.candidates, self._measure, whose)
        return with_controls(self.candidates, self._tuned(controls))

    def _measure(self, strategies: Sequence[InsertionStrategy]) -> list[Insertion]:
        plain = [strategy.to_dict() for strategy in strategies]
        found: list[Insertion] = self.bench.engine.ask(
            "insertions", self.bench.data, plain, "val_id"
        )
        return found

    def _tuned(self, controls: Sequence[Arm]) -> list[Arm]:
        """Controls with the learning rate that does best on validation data, with one seed."""
        factors = self.of.config.confirm.control_lr_factors
        own = {arm.key for arm in self.candidates}
        seed = self._fresh_seeds(1, _TUNING_SEEDS_FROM)[0]
        tried = {
            arm.key: [with_lr(arm, factor) for factor in factors]
            for arm in controls
            if arm.key not in own and arm.config.strategy.latent_count and len(factors) > 1
        }
        members = {
            one.key: self._member(one, seed, "tune") for some in tried.values() for one in some
        }
        reports = self.bench.train(list(members.values())) if members else {}
        self._tell_ends(members.values(), reports, {})

        def score(arm: Arm) -> float:
            report = reports[members[arm.key].uid]
            return goodness(self._objective, report.metrics.get(self._objective, float("nan")))

        def best(some: Sequence[Arm], arm: Arm) -> Arm:
            sound = [one for one in some if np.isfinite(score(one))]
            return max(sound, key=score, default=arm)

        return [best(tried[arm.key], arm) if arm.key in tried else arm for arm in controls]

    @property
    def _objective(self) -> str:
        return self.of.config.objective

    def _fresh_seeds(self, number: int, begin: int) -> list[int]:
        """Seeds that no trial of the search had."""
        used = {trial.config.seed for trial in self.trials}
        return list(islice((seed for seed in count(begin) if seed not in used), number))

    def _member(self, arm: Arm, seed: int, stage: str = "confirm") -> Member:
        uid = f"{self.of.config.name}-confirm-{arm.key}-{seed}"
        return Member(uid=uid, config=replace(arm.config, seed=seed), stage=stage)

    def _members(self, arm: Arm) -> list[Member]:
        """One per seed; a single one where nothing is trained."""
        seeds = self._fresh_seeds(self.of.config.confirm.seeds, _SEEDS_FROM)
        trains = arm.config.strategy.latent_count > 0
        return [self._member(arm, seed) for seed in (seeds if trains else seeds[:1])]

    def _judge(self, arms: Sequence[Arm]) -> ConfirmationRecord:
        """Train and score all members, then say what came of it."""
        confirm = self.of.config.confirm
        members = {arm.key: self._members(arm) for arm in arms}
        everyone = [member for some in members.values() for member in some]
        reports = self.bench.train(everyone)
        sound = {
            key: some
            for key, some in members.items()
            if all(reports[member.uid].failed is None for member in some)
        }
        self.bench.score([m for some in sound.values() for m in some], confirm.rows)
        tables = {
            member.uid: read_items(self.bench.items_path(member.uid, confirm.rows))
            for some in sound.values()
            for member in some
        }
        self._tell_ends(everyone, reports, tables)
        self.of.events.fence()
        write_items(self._items_file, tables.values())
        scores = {
            key: arm_scores([tables[member.uid] for member in some]) for key, some in sound.items()
        }
        records = [self._record(arm, members[arm.key], reports) for arm in arms]
        return self._summed_up(records, scores, reports)

    def _record(
        self, arm: Arm, members: Sequence[Member], reports: Mapping[str, MemberReport]
    ) -> ArmRecord:
        failed = [reports[m.uid].failed for m in members if reports[m.uid].failed is not None]
        validation = [reports[m.uid].metrics.get(self._objective) for m in members]
        known = [score for score in validation if score is not None]
        return ArmRecord(
            key=arm.key,
            strategy=arm.config.strategy.short_name,
            config=arm.config.to_dict(),
            rank=arm.rank,
            search_score=arm.search_score,
            search_trials=[self.of.folder.uid(number) for number in arm.search_trials],
            control=arm.control,
            control_for=arm.control_for,
            latents=arm.config.strategy.latent_count,
            latents_per_row=self._measure([arm.config.strategy])[0].latents,
            uids=[member.uid for member in members],
            validation=fmean(known) if known and not failed else None,
            left_out=failed[0] if failed else None,
            try_again=any(reports[m.uid].again for m in members),
        )

    def _summed_up(
        self,
        records: Sequence[ArmRecord],
        scores: Mapping[str, Scores],
        reports: Mapping[str, MemberReport],
    ) -> ConfirmationRecord:
        unit = self.of.config.task.distance_unit
        scored = [with_scores(r, scores[r.key]) if r.key in scores else r for r in records]
        arms = compared(scored, scores, self._objective, unit)
        champion = champion_of(arms, scores, self._objective)
        best_uid = None if champion is None else self._best_member(champion, reports)
        artifact = None if best_uid is None else f"artifacts/{best_uid}-champion"
        judged = judged_metric(self._objective, scores.values())
        verdict = [arm.words for arm in arms if arm.words is not None]
        verdict += judging(self._objective, judged)
        verdict.append(conclusion(champion, arms, self._objective, judged))
        return ConfirmationRecord(
            search=self.of.config.name,
            inputs=self.inputs,
            state="nothing confirmed" if champion is None else "confirmed",
            objective=self._objective,
            judged=judged,
            champion=None if champion is None else champion.key,
            champion_uid=best_uid,
            artifact=artifact,
            seeds=self.of.config.confirm.seeds,
            steps=self.of.config.budget.steps,
            arms=list(arms),
            verdict=verdict,
            notes=tuple(self._notes(arms, scores, reports)),
        )

    def _best_member(self, arm: ArmRecord, reports: Mapping[str, MemberReport]) -> str:
        """The seed to hand over: chosen on validation data, so that test scores stay unbiased."""

        def score(uid: str) -> float:
            return goodness(self._objective, reports[uid].metrics[self._objective])

        return max(arm.uids, key=score)

    def _notes(
        self,
        arms: Sequence[ArmRecord],
        scores: Mapping[str, Scores],
        reports: Mapping[str, MemberReport],
    ) -> Iterator[str]:
        running = sum(trial.status is TrialStatus.RUNNING for trial in self.trials)
        if running:
            yield f"the search is not at its end: {running} of its trials are unfinished"
        for arm in arms:
            if arm.left_out is not None:
                again = "; the next `latentune confirm` tries it again" * arm.try_again
                yield f"{arm.strategy} is left out: {arm.left_out}{again}"
        some = next(iter(scores.values()), {})
        yield from thin_distances(some)
        measured = {name for report in reports.values() for name in report.metrics}
        yield from unseen_distances(some, measured, self.of.config.task.distance_unit)

    def _tell_ends(
        self,
        members: Iterable[Member],
        reports: Mapping[str, MemberReport],
        tables: Mapping[str, pa.Table],
    ) -> None:
        """Tell each member's end, with its artifact folder and all its scores.

        One that was told is told again where its scores are others by now, of more rows.
        """
        told = {e.trial_uid: e.payload for e in self.of.events.read() if e.type == "trial_ended"}
        attempts = begun(self.of.events)
        for member in members:
            report = reports[member.uid]
            failed = report.failed is not None
            metrics = dict(report.metrics)
            if member.uid in tables:
                metrics |= member_metrics(tables[member.uid])
            known = told.get(member.uid)
            if known is not None and _as_told(metrics, report.failed) == (
                known["metrics"],
                known["reason"],
            ):
                continue
            self.of.events.append(
                "trial_ended",
                {
                    "state": "failed" if failed else "complete",
                    "step": report.step,
                    "metrics": metrics,
                    "reason": report.failed,
                    "artifact": None if failed else self._save(member, metrics),
                    "stage": "confirm",
                },
                trial_uid=member.uid,
                attempt=attempts[member.uid],
            )

    def _save(self, member: Member, metrics: Mapping[str, float]) -> str:
        return save_member(
            self.of.folder,
            member,
            self.bench.steps,
            base_model=self.base_model,
            data=self.bench.data,
            metrics=metrics,
        )


def _as_told(
    metrics: Mapping[str, float], failed: str | None
) -> tuple[dict[str, float | None], str | None]:
    """As an event tells it: without what is not finite."""
    return {name: v if np.isfinite(v) else None for name, v in metrics.items()}, failed
