"""One frozen model that trains and evaluates many trials together.

    trial A  [rows]--.
    trial B  [rows]--+--> one batch --> frozen model --> sum over trials of each trial's mean loss
    trial C  [rows]--'                                   one backward; no gradient crosses trials

Trials differ only in rows of `inputs_embeds`, so they share everything else. Each has its
own latents, AdamW moments, learning rate, schedule, clipping and seed. A trial joins or
leaves between two steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch.nn import functional

from trainable.base_model.loading import BaseModel
from trainable.batch import PreparedRow, labelled_logits, micro_batches, prepare
from trainable.data import (
    EncodedTask,
    ExampleStream,
    Split,
    Task,
    mean_by_distance,
)
from trainable.decoding import LatentLM
from trainable.delimiters import Vocabulary
from trainable.errors import TaskError, TrialError, UnknownTrialError
from trainable.evaluation import answer_metrics, forced_scores
from trainable.latents import init_latents
from trainable.layout_rules import Bools, LayoutRules
from trainable.lengths import (
    check_own_positions,
    check_verbal_lengths,
    long_train_rows,
    refuse_long,
    row_limit,
)
from trainable.positions import context_of
from trainable.resident import ResidentTrial
from trainable.selftest import check_attention, check_decoding
from trainable.state import TrialState
from trainable.strategy import InsertionStrategy, PositionRule
from trainable.trial import TrialConfig

MICRO_BATCH_TOKENS = {"cpu": 2048, "cuda": 32768}
_ROWS_AT_ONCE = 4096  # laid out at a time, so that a large split needs no more memory

LongRows = Literal["refuse", "drop"]


@dataclass(frozen=True)
class TrialSpec:
    """What an engine needs to take a trial in.

    Args:
        uid: unique among the engine's trials.
        config: strategy, init, optimiser and seed.
        budget_steps: optimiser steps of a full run; the schedule's horizon.
        data_seed: the search's, for the order of examples.
        max_tokens: the longest row allowed, latents included; None for no limit of one's own.
        long_rows: what becomes of longer ones. `refuse` refuses the trial; `drop` leaves them out
            of its training, and counts them. Scores are always of all rows that the task has.
    """

    uid: str
    config: TrialConfig
    budget_steps: int
    data_seed: int = 0
    max_tokens: int | None = None
    long_rows: LongRows = "refuse"


class Engine:
    """A frozen model and the trials that live on it.

    Args:
        base: from `load_base`.
        micro_batch_tokens: slots, padding included, that go through the model at once; bounds
            the memory, changes no result beyond rounding. Default by device: a GPU wants many;
            a CPU is busy with few, and small batches of rows of like length are padded less.
        deterministic: one trial per forward, so that no bit of a trial depends on its neighbours.
            What that costs is the fusion.
    """

    def __init__(
        self,
        base: BaseModel,
        *,
        micro_batch_tokens: int | None = None,
        deterministic: bool = False,
    ) -> None:
        check_attention(base.model)
        check_decoding(base.model)  # before a search, not after it
        self.base = base
        self.micro_batch_tokens = micro_batch_tokens or MICRO_BATCH_TOKENS[base.model.device.type]
        self.deterministic = deterministic
        self._trials: dict[str, ResidentTrial] = {}
        self._vocabulary = Vocabulary(
            base.tokenizer, base.model.config.get_text_config().vocab_size
        )

    def join(self, spec: TrialSpec, data: EncodedTask, state: TrialState | None = None) -> None:
        """Take a trial in: from its init, or from an exported state.

        Raises:
            TrialError: if its init cannot be drawn, or the uid is taken.
            TaskError: if a row is too long for the model or for `max_tokens`.
        """
        if spec.uid in self._trials:
            raise TrialError(f"trial {spec.uid} is already in this engine: let it leave first")
        config = spec.config
        rules = self.resolve(config.strategy)
        dropped_N = self._long_rows(spec, rules, data)
        trial = ResidentTrial(
            uid=spec.uid,
            config=config,
            latents=init_latents(
                config.init,
                config.strategy.latent_count,
                config.seed,
                self.base.embeddings,
                self.base.tokenizer,
            ).to(self.base.model.device),
            rules=rules,
            data=data,
            stream=ExampleStream(len(data.rows("train")), spec.data_seed),
            budget_steps=spec.budget_steps,
            dropped_N=dropped_N,
        )
        if state is not None:
            trial.restore(state)
        self._trials[spec.uid] = trial

    def leave(self, uid: str) -> None:
        """Let a trial go; its rows are free from the next step on."""
        self._trial(uid)
        del self._trials[uid]

    def state(self, uid: str) -> TrialState:
        """A trial's state as plain arrays."""
        return self._trial(uid).export()

    def trials(self) -> list[str]:
        """The uids of all trials inside, in order of joining."""
        return list(self._trials)

    def step_of(self, uid: str) -> int:
        """Optimiser steps that a trial has done."""
        return self._trial(uid).step

    def step(self, uids: Iterable[str] | None = None) -> dict[str, float]:
        """Take one optimiser step with each of the given trials, all of them by default.

        Returns:
            uid to the trial's mean loss over all labelled tokens of its step. Trials without
            latents have nothing to train: they are not in the result, and neither are trials
            that have failed.

        Raises:
            NumericError: never from here; a trial that stops being finite fails alone, and its
                `raise_failure` tells.
        """
        trials = [self._trial(uid) for uid in (self._trials if uids is None else uids)]
        for trial in trials:
            if not trial.trains:
                trial.step += 1
        trials = [trial for trial in trials if trial.trains and trial.failure is None]
        losses = [loss for group in self._groups(trials) for loss in self._gather_gradients(group)]
        for trial, loss in zip(trials, losses, strict=True):
            trial.update(loss)
            trial.optimizer.zero_grad(set_to_none=True)
        return {trial.uid: loss for trial, loss in zip(trials, losses, strict=True)}

    def gradients(self, uids: Sequence[str]) -> list[torch.Tensor]:
        """The gradients of the next step, one [L, D] per trial, without taking it: for tests."""
        trials = [self._trial(uid) for uid in uids]
        self._gather_gradients(trials)
        found = [
            torch.zeros_like(trial.latents) if trial.latents.grad is None else trial.latents.grad
            for trial in trials  # (None: no site in the whole batch)
        ]
        for trial in trials:
            trial.optimizer.zero_grad(set_to_none=True)
        return found

    def raise_failure(self, uid: str) -> None:
        """Raise the error of a trial that has failed, if it has."""
        failure = self._trial(uid).failure
        if failure is not None:
            raise failure

    @torch.no_grad()
    def evaluate(self, uids: Sequence[str], splits: Sequence[Split]) -> dict[str, dict[str, float]]:
        """Score trials on splits, teacher-forced, all of them in the same batches.

        Greedy decoding gives the reference exactly when the teacher-forced argmax is right at
        every labelled place, so `exact_match` is that of free-running greedy decoding, for the
        price of one forward. Other scores are given the reference's own prefix.

        Returns:
            uid to metric name to value: `val_ood/exact_match`, `val_ood/exact_match/12`, …,
            `cost/extra_tokens_pct`, which is 100 · latents / verbal tokens over the first split,
            and, where rows were dropped, `cost/dropped_rows_pct` of the training rows. A trial
            whose answers cannot be scored fails alone, and its `raise_failure` tells.
        """
        trials = [self._trial(uid) for uid in uids]
        results: dict[str, dict[str, float]] = {uid: {} for uid in uids}
        for split in splits:
            tallies = [one for group in self._groups(trials) for one in self._score(group, split)]
            for trial, tally in zip(trials, tallies, strict=True):
                if split == splits[0]:
                    results[trial.uid] |= tally.costs() | trial.costs()
                results[trial.uid] |= mean_by_distance(tally.scores, split)
        return results

    def resolve(self, strategy: InsertionStrategy) -> LayoutRules:
        """Resolve a strategy against this base model's vocabulary."""
        return self._vocabulary.rules(strategy)

    @property
    def context(self) -> int | None:
        """The most verbal tokens that the model reads; None where it sets no limit."""
        return context_of(self.base.model)

    def encode(
        self, task: Task, *, max_tokens: int | None = None, long_rows: LongRows = "refuse"
    ) -> EncodedTask:
        """A task's rows for this model; with `drop`, without those that no strategy could carry."""
        limit = row_limit(self.context, max_tokens) if long_rows == "drop" else None
        return EncodedTask(task, self.base.tokenizer, drop_above=limit)

    def check_context(self, data: EncodedTask, max_tokens: int | None = None) -> None:
        """Refuse rows that no strategy could carry, in any split.

        Raises:
            TaskError: if a row, without any latent, is too long for the model or `max_tokens`.
        """
        check_verbal_lengths(data, self.context, max_tokens)

    def _long_rows(self, spec: TrialSpec, rules: LayoutRules, data: EncodedTask) -> Bools | None:
        """Which training rows a trial leaves out; refuses what it may not leave out."""
        self.check_context(data, spec.max_tokens)
        if rules.position_rule is PositionRule.OWN and self.context is not None:
            check_own_positions(spec.config.strategy, rules, data, self.context)
        if spec.max_tokens is None:
            return None
        if spec.long_rows == "drop":
            return long_train_rows(spec.config.strategy, rules, data, spec.max_tokens)
        refuse_long(spec.config.strategy, rules, data, spec.max_tokens)
        return None

    def _groups(self, trials: Sequence[ResidentTrial]) -> list[Sequence[ResidentTrial]]:
        """Which trials share their forwards: all of them, or none with another."""
        return [[trial] for trial in trials] if self.deterministic else [trials]

    def _gather_gradients(self, trials: Sequence[ResidentTrial]) -> list[float]:
        """Forward and backward for one step of each trial; returns their mean losses."""
        rows = [
            prepare(owner, trial.data.rows("train")[index], trial.rules)
            for owner, trial in enumerate(trials)
            for index in trial.next_rows()
        ]
        labels_per_trial = torch.zeros(len(trials))
        for row in rows:
            labels_per_trial[row.owner] += len(row.response)
        labels_per_trial = labels_per_trial.to(self.base.model.device)
        losses = torch.zeros_like(labels_per_trial)
        for batch in micro_batches(rows, self.micro_batch_tokens):
            logits_JV, labels_J, owners_J = labelled_logits(
                self.base.model, batch, [trial.latents for trial in trials]
            )
            nll_J = functional.cross_entropy(logits_JV, labels_J, reduction="none")
            share_J = nll_J / labels_per_trial[owners_J]  # each trial's own mean ...
            if share_J.requires_grad:  # (a batch without any site has no gradient)
                share_J.sum().backward()  # ... and the sum over trials
            losses.index_add_(0, owners_J, share_J.detach().to(losses.dtype))
        return [float(loss) for loss in losses]

    def _score(self, trials: Sequence[ResidentTrial], split: Split) -> list[_Tally]:
        tallies = [_Tally() for _ in trials]
        latents = [trial.latents for trial in trials]
        for rows in _prepared(trials, split):
            for scored in forced_scores(self.base.model, rows, latents, self.micro_batch_tokens):
                row, right_N, nll_N = scored
                tallies[row.owner].add(row, trials[row.owner].data.score(row.row, right_N, nll_N))
        for trial, tally in zip(trials, tallies, strict=True):
            if trial.data.answer_metrics:
                tally.scores += self._answer_scores(trial, split)
        return tallies

    def _answer_scores(
        self, trial: ResidentTrial, split: Split
    ) -> list[tuple[int, dict[str, float]]]:
        """What the trial's latents make the model write by itself, judged as text."""
        tokenizer, latents = self.base.tokenizer, trial.latents.detach()
        lm = LatentLM(self.base.model, tokenizer, trial.rules, latents)
        try:
            return answer_metrics(lm, trial.data, split)
        except TaskError as error:  # another trial's answers may be fine
            trial.failure = error
            return []

    def _trial(self, uid: str) -> ResidentTrial:
        try:
            return self._trials[uid]
        except KeyError:
            raise UnknownTrialError(
                f"trial {uid} is not in this engine: join it (again) with its last state"
            ) from None


@dataclass
class _Tally:
    """What is known of one trial's rows of a split."""

    scores: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    latents: int = 0
    tokens: int = 0

    def add(self, row: PreparedRow, metrics: dict[str, float]) -> None:
        self.scores.append((row.row.distance, metrics))
        self.latents += row.layout.latent_count
        self.tokens += len(row.row.ids)

    def costs(self) -> dict[str, float]:
        return {"cost/extra_tokens_pct": 100.0 * self.latents / self.tokens}


def _prepared(trials: Sequence[ResidentTrial], split: Split) -> Iterator[list[PreparedRow]]:
    """A split's rows of all trials, laid out, some thousands at a time."""
    rows = [trial.data.rows(split) for trial in trials]
    size = max(1, _ROWS_AT_ONCE // len(trials))
    for begin in range(0, max(map(len, rows)), size):
        yield [
            prepare(owner, row, trial.rules)
            for owner, trial in enumerate(trials)
            for row in rows[owner][begin : begin + size]
        ]
