"""Confirmation: is the search's winner really better, on data that the search never saw?

    ledger ─► top configurations ─► controls ─► members with fresh seeds, trained on one engine
                                                     │
    champion ◄── verdict ◄── intervals, tests ◄── yes or no per item of test_id and test_ood

A search picks the best of many noisy scores, which flatter it. So its best configurations are
trained again and judged beside their controls on the test splits. Only what is better there than
the best control becomes `champion`; that nothing is, is an answer too.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import count, islice
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from orchestrator.arms import Arm, control_arms, top_arms, with_controls, with_lr
from orchestrator.checkpoints import load_state
from orchestrator.config import SearchConfig, load_search
from orchestrator.confirmation_record import (
    ArmRecord,
    ConfirmationRecord,
    read_confirmation,
)
from orchestrator.control import Requests
from orchestrator.driver_lock import driver_lock
from orchestrator.engine_actor import ask_engine, leased_engine
from orchestrator.errors import ConfirmationError, ConfirmationHaltedError
from orchestrator.events import EventLog
from orchestrator.files import write_atomic
from orchestrator.folders import SearchFolder, home_folder
from orchestrator.ledger import LedgerTrial, TrialStatus, read_ledger
from orchestrator.manifest import manifest_sha256
from orchestrator.members import Bench, Member, MemberReport
from orchestrator.ray_session import ray_session
from orchestrator.results import SearchResult
from orchestrator.search_data import SearchData, read_data
from orchestrator.tracking import start_shipper, tracking_uri, wait_shipped
from orchestrator.verdict import Place, Scores, champion_of, compared, places_of, with_scores
from trainable.artifact import Artifact
from trainable.data import TEST_SPLITS, Split, mean_by_distance
from trainable.item_scores import Insertion, ItemScores
from trainable.metrics import EXACT_MATCH, goodness
from trainable.state import TrialState
from trainable.strategy import InsertionStrategy

logger = logging.getLogger(__name__)

ENOUGH_ROWS = 500  # per distance
_SEEDS_FROM, _TUNING_SEEDS_FROM = 1_000, 900  # a search's seeds are small numbers
_SHIPPING_WAIT_S = 60.0

Say = Callable[[str], None]


def confirm(
    name: str,
    overrides: Sequence[str] = (),
    *,
    home: str | Path | None = None,
    interrupt: threading.Event | None = None,
    say: Say = logger.info,
) -> ConfirmationRecord:
    """Confirm a search, or go on with that.

    Args:
        name: the search's.
        overrides: `confirm.key=value`.
        home: LATENTUNE_HOME.
        interrupt: when set, members save their state and ConfirmationHaltedError is raised.
        say: what goes on, for a person.

    Raises:
        SearchNotFoundError: if there is no such search.
        SearchLockedError: if a driver runs it.
        ConfirmationError: where there is nothing to confirm, or nothing to test on.
        ConfirmationHaltedError: if it was stopped.
    """
    folder = SearchFolder.existing(home_folder(home), name)
    for override in overrides:
        if not override.strip().startswith("confirm."):
            raise ConfirmationError(
                f"--set {override}: a search that has run keeps its configuration; only fields of "
                "`confirm` can be changed, for example --set confirm.seeds=8"
            )
    config = load_search(folder.config, overrides)
    uri = tracking_uri(home_folder(home), config.tracking.uri)
    with driver_lock(folder):
        Requests(folder).forget_search()
        data = read_data(config, home_folder(home))
        with EventLog(folder.events) as events:
            work = Confirmation(config, folder, data, events, uri, interrupt, say)
            record = work.go()
        if folder.result.exists():
            result = SearchResult.model_validate_json(folder.result.read_text())
            told = result.model_copy(update={"confirmation": record})
            write_atomic(folder.result, told.model_dump_json(indent=1).encode())
    return record


@dataclass
class Confirmation:
    """One confirmation, under the search's lock.

    Args:
        config: the search's, with its `confirm` section.
        folder: the search's.
        data: its rows.
        events: its event log.
        uri: where tracking goes.
        interrupt: when set, everything stops.
        say: what goes on, for a person.
    """

    config: SearchConfig
    folder: SearchFolder
    data: SearchData
    events: EventLog
    uri: str
    interrupt: threading.Event | None
    say: Say

    def go(self) -> ConfirmationRecord:
        """Do what is not done yet, and say what came of it."""
        trials = read_ledger(self.folder.path, self.config.name)
        candidates = self._candidates(trials)
        inputs = self._inputs(candidates)
        known = read_confirmation(self.folder.confirmation)
        if known is not None and known.inputs == inputs:
            return known
        with ray_session(self.folder.path), self._bench() as (bench, base_model):
            return _Work(self, bench, base_model, trials, candidates, inputs).run()

    def halted(self) -> bool:
        """Whether somebody wants it to stop."""
        pressed = self.interrupt is not None and self.interrupt.is_set()
        return pressed or Requests(self.folder).search()

    @property
    def test_splits(self) -> list[Split]:
        """The splits that it is judged on."""
        return [split for split in TEST_SPLITS if split in self.config.task.splits()]

    def _candidates(self, trials: Sequence[LedgerTrial]) -> list[Arm]:
        objective = self.config.objective
        needed: Split = "test_ood" if objective.startswith("val_ood") else "test_id"
        if needed not in self.test_splits:
            raise ConfirmationError(
                f"the objective is {objective}, but the task has no {needed} to confirm it on: "
                f"give task.{needed} a file or task.split.test a share, in a search of its own"
            )
        candidates = top_arms(trials, objective, self.config.confirm.top)
        if not candidates:
            raise ConfirmationError(
                f"search {self.config.name!r} has no trial with latents and a score that could be "
                "confirmed: run it first"
            )
        return candidates

    def _inputs(self, candidates: Sequence[Arm]) -> str:
        section = self.config.confirm.model_dump(
            mode="json", exclude={"enabled", "members_at_once"}
        )
        asked = [[arm.key for arm in candidates], section, self.config.objective]
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]

    @contextmanager
    def _bench(self) -> Iterator[tuple[Bench, Mapping[str, Any]]]:
        from orchestrator.driver import engine_options

        config = self.config
        lease = f"{config.name}/confirm"
        with leased_engine(*engine_options(config), lease) as (name, engine, base_model):
            bench = Bench(
                engine=engine,
                name=name,
                data=self.data.source,
                splits=config.task.splits(),
                steps=config.budget.steps,
                at_once=config.confirm.members_at_once,
                folder=self.folder,
                events=self.events,
                halt=self.halted,
                say=self.say,
            )
            yield bench, base_model


@dataclass
class _Work:
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
            self._tell_champion(record)
            document = record.model_dump(mode="json")
            ended = {"state": record.state, "verdict": record.verdict}
            files = [str(self._items_file.relative_to(of.folder.path))]
            ended |= {"documents": {"confirmation.json": document}, "files": files}
            of.events.append("confirm_ended", ended)
        except BaseException:
            of.events.append("confirm_ended", {"state": "interrupted"})
            raise
        write_atomic(of.folder.confirmation, record.model_dump_json(indent=1).encode())
        if not wait_shipped(
            of.folder.path, of.events.next_seq - 1, _SHIPPING_WAIT_S, shipper=shipper
        ):
            logger.warning("tracking at %s does not have everything yet", of.uri)
        return record

    @property
    def _items_file(self) -> Path:
        return self.of.folder.confirm / "items.parquet"

    def _arms(self) -> list[Arm]:
        """Candidates and controls, each control with the best learning rate of its grid."""
        controls = control_arms(self.candidates, self._measure)
        return with_controls(self.candidates, self._tuned(controls))

    def _measure(self, strategies: Sequence[InsertionStrategy]) -> list[Insertion]:
        plain = [strategy.to_dict() for strategy in strategies]
        found: list[Insertion] = ask_engine(
            self.bench.engine.insertions, self.bench.data, plain, "val_id"
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
            member.uid: pq.read_table(self.bench.items_path(member.uid, confirm.rows))
            for some in sound.values()
            for member in some
        }
        self._tell_ends(everyone, reports, tables)
        sink = pa.BufferOutputStream()
        pq.write_table(pa.concat_tables(tables.values()), sink)
        write_atomic(self._items_file, sink.getvalue().to_pybytes())
        scores = {
            key: _scores([tables[member.uid] for member in some]) for key, some in sound.items()
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
            latents=arm.config.strategy.latent_count,
            latents_per_row=self._measure([arm.config.strategy])[0].latents,
            uids=[member.uid for member in members],
            validation=fmean(known) if known and not failed else None,
            left_out=failed[0] if failed else None,
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
        verdict = [arm.words for arm in arms if arm.words is not None]
        return ConfirmationRecord(
            search=self.of.config.name,
            inputs=self.inputs,
            state="nothing confirmed" if champion is None else "confirmed",
            objective=self._objective,
            champion=None if champion is None else champion.key,
            champion_uid=best_uid,
            artifact=artifact,
            seeds=self.of.config.confirm.seeds,
            steps=self.of.config.budget.steps,
            arms=list(arms),
            verdict=[*verdict, _conclusion(champion, arms)],
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
                yield f"{arm.strategy} is left out: {arm.left_out}"
        some = next(iter(scores.values()), {})
        yield from _thin_distances(some)
        if "test_ood" in some:
            seen = {
                int(name.rpartition("/")[2])
                for report in reports.values()
                for name in report.metrics
                if name.startswith(f"val_ood/{EXACT_MATCH}/")
            }
            new = sorted(set(some["test_ood"].distance_N.tolist()) - seen)
            unit = self.of.config.task.distance_unit
            listed = ", ".join(map(str, new))
            yield (
                f"test_ood has what val_ood lacked: {listed} ({unit})"
                if new
                else "test_ood has no distance that val_ood lacked: the search saw each of them"
            )

    def _tell_ends(
        self,
        members: Sequence[Member] | Any,
        reports: Mapping[str, MemberReport],
        tables: Mapping[str, pa.Table],
    ) -> None:
        """Tell each member's end once, with its artifact folder and all its scores."""
        told = {e.trial_uid for e in self.of.events.read() if e.type == "trial_ended"}
        for member in members:
            if member.uid in told:
                continue
            report = reports[member.uid]
            failed = report.failed is not None
            metrics = dict(report.metrics)
            if member.uid in tables:
                metrics |= _test_metrics(tables[member.uid])
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
                attempt=1,
            )

    def _save(self, member: Member, metrics: Mapping[str, float]) -> str:
        """Write a member's artifact folder from its last state."""
        folder, steps = self.of.folder, self.bench.steps
        state = load_state(folder.trial(member.uid), steps)
        assert state is not None, "a trained member has a state"
        Artifact(
            latents=TrialState.from_bytes(state).latents,
            config=member.config,
            base_model=self.base_model,
            task={**asdict(self.bench.data)["task"], "data_seed": self.bench.data.seed},
            metrics=metrics,
            provenance={
                "search": folder.name,
                "trial_uid": member.uid,
                "step": steps,
                "scored_at_step": steps,
                "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            },
        ).save(folder.artifact(member.uid))
        return str(folder.artifact(member.uid).relative_to(folder.path))

    def _tell_champion(self, record: ConfirmationRecord) -> None:
        arm = record.arm(record.champion)
        if arm is None or record.champion_uid is None or record.artifact is None:
            return
        folder = self.of.folder
        own = Artifact.load(folder.artifact(record.champion_uid))
        confirmed = replace(own, confirmation=_confirmed_numbers(record, arm))
        confirmed.save(folder.path / record.artifact)
        self.of.events.append(
            "champion",
            {
                "artifact": record.artifact,
                "manifest_sha256": manifest_sha256(folder.path / record.artifact),
                "metrics": dict(own.metrics),
                "name": arm.strategy,
            },
            trial_uid=record.champion_uid,
            attempt=1,
        )


def _scores(tables: Sequence[pa.Table]) -> Scores:
    """An arm's item scores, by split, from its members' tables in order."""
    found: dict[Split, ItemScores] = {}
    for split in TEST_SPLITS:
        parts = [table.filter(pc.equal(table["split"], split)) for table in tables]
        if len(parts[0]):
            found[split] = ItemScores(
                distance_N=parts[0]["distance"].to_numpy(),
                place_N=parts[0]["item"].to_numpy(),
                right_MN=np.stack([part["exact_match"].to_numpy() for part in parts]),
            )
    return found


def _test_metrics(table: pa.Table) -> dict[str, float]:
    """One member's test scores, named as a search names its own."""
    metrics: dict[str, float] = {}
    for split, scores in _scores([table]).items():
        rows = [
            (int(distance), {EXACT_MATCH: float(right)})
            for distance, right in zip(scores.distance_N, scores.right_MN[0], strict=True)
        ]
        metrics |= mean_by_distance(rows, split)
    return metrics


def _thin_distances(scores: Scores) -> Iterator[str]:
    for place in places_of(scores):
        found = scores[place.split].distance_N
        for distance, rows in zip(*np.unique(found, return_counts=True), strict=True):
            if place.distance in (None, distance) and rows < ENOUGH_ROWS:
                yield (
                    f"{Place(place.split, int(distance)).metric} has {rows} items, fewer than "
                    f"{ENOUGH_ROWS}"
                )


def _conclusion(champion: ArmRecord | None, arms: Sequence[ArmRecord]) -> str:
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


def _confirmed_numbers(record: ConfirmationRecord, arm: ArmRecord) -> dict[str, Any]:
    """What the champion's card says."""
    control = record.arm(arm.against)
    assert control is not None, "a confirmed arm has a control"
    rows = []
    for score in arm.scores:
        other = control.score(score.metric)
        assert other is not None, "all arms are scored on the same rows"
        rows.append(score.model_dump() | {"control_mean": other.mean})
    return {
        "verdict": arm.words,
        "seeds": record.seeds,
        "control": control.strategy,
        "scores": rows,
        "comparisons": [comparison.model_dump() for comparison in arm.comparisons],
    }


__all__ = ["Confirmation", "ConfirmationHaltedError", "confirm"]
