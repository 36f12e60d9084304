"""One frozen model that trains and evaluates many trials together.

    trial A  [rows]--.
    trial B  [rows]--+--> one batch --> frozen model --> sum over trials of each trial's mean loss
    trial C  [rows]--'                                   one backward; no gradient crosses trials

Trials differ only in rows of `inputs_embeds`, so they share everything else. Each has its
own latents, AdamW moments, learning rate, schedule, clipping and seed. A trial joins or
leaves between two steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from trainable.base_model.loading import BaseModel
from trainable.batch import PreparedRow, labelled_logits, micro_batches, prepare
from trainable.data import (
    SEARCH_SPLITS,
    TEST_SPLITS,
    EncodedTask,
    ExampleStream,
    Split,
    mean_by_distance,
)
from trainable.delimiters import decoded_vocabulary, matching_ids
from trainable.errors import TaskError, TrialError, UnknownTrialError
from trainable.latents import init_latents
from trainable.layout import Bools, LayoutRules, whole_layout
from trainable.resident import ResidentTrial
from trainable.selftest import check_attention, check_decoding
from trainable.state import TrialState
from trainable.strategy import InsertionStrategy
from trainable.trial import TrialConfig

MICRO_BATCH_TOKENS = {"cpu": 2048, "cuda": 32768}


@dataclass(frozen=True)
class TrialSpec:
    """What an engine needs to take a trial in.

    Args:
        uid: unique among the engine's trials.
        config: strategy, init, optimiser and seed.
        budget_steps: optimiser steps of a full run; the schedule's horizon.
        data_seed: the search's, for the order of examples.
        max_tokens: the longest row allowed, latents included; None for no limit of one's own.
    """

    uid: str
    config: TrialConfig
    budget_steps: int
    data_seed: int = 0
    max_tokens: int | None = None


class Engine:
    """A frozen model and the trials that live on it.

    Args:
        base: from `load_base`.
        micro_batch_tokens: slots, padding included, that go through the model at once; bounds
            the memory, changes no result beyond rounding. Default by device: a GPU wants many;
            a CPU is busy with few, and small batches of rows of like length are padded less.
    """

    def __init__(self, base: BaseModel, *, micro_batch_tokens: int | None = None) -> None:
        check_attention(base.model)
        check_decoding(base.model)  # before a search, not after it
        self.base = base
        self.micro_batch_tokens = micro_batch_tokens or MICRO_BATCH_TOKENS[base.model.device.type]
        self._trials: dict[str, ResidentTrial] = {}
        self._matches: dict[str, Bools] = {}
        self._texts: list[str] | None = None

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
        self._check_lengths(spec, rules, data)
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
        losses = self._gather_gradients(trials)
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
        """Raise the NumericError of a trial that has failed, if it has."""
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
            uid to metric name to value: `val_ood/exact_match`, `val_ood/exact_match/12`, …, and
            `cost/extra_tokens_pct`, which is 100 · latents / verbal tokens over the first split.
        """
        trials = [self._trial(uid) for uid in uids]
        results: dict[str, dict[str, float]] = {uid: {} for uid in uids}
        for split in splits:
            rows = [
                prepare(owner, row, trial.rules)
                for owner, trial in enumerate(trials)
                for row in trial.data.rows(split)
            ]
            for owner, metrics in enumerate(self._score(trials, rows, split)):
                if split == splits[0]:
                    metrics["cost/extra_tokens_pct"] = _extra_tokens_pct(rows, owner)
                results[trials[owner].uid] |= metrics
        return results

    def resolve(self, strategy: InsertionStrategy) -> LayoutRules:
        """Resolve a strategy against this base model's vocabulary."""
        patterns = {t.pattern for t in strategy.triggers.values() if t.pattern is not None}
        missing = sorted(patterns - set(self._matches))
        if missing:
            if self._texts is None:
                size = self.base.model.config.get_text_config().vocab_size
                self._texts = decoded_vocabulary(self.base.tokenizer, size)
            self._matches |= matching_ids(self._texts, missing)
        return LayoutRules.build(strategy, self._matches, self.base.tokenizer.bos_token_id)

    def check_context(self, data: EncodedTask, max_tokens: int | None = None) -> None:
        """Refuse rows that no strategy could carry, in any split.

        Raises:
            TaskError: if a row, without any latent, is too long for the model or `max_tokens`.
        """
        context = getattr(self.base.model.config.get_text_config(), "max_position_embeddings", None)
        for split in ("train", *SEARCH_SPLITS, *TEST_SPLITS):
            longest = max(len(row.ids) for row in data.rows(split))
            if context is not None and longest > context:
                raise TaskError(
                    f"task: a row of {split} has {longest} tokens, the base model's context is "
                    f"{context}: shorten the task's rows or take another base_model.path"
                )
            if max_tokens is not None and longest > max_tokens:
                raise TaskError(
                    f"data.max_tokens={max_tokens}: a row of {split} has {longest} tokens before "
                    "any latent: raise it or shorten the task's rows"
                )

    def _check_lengths(self, spec: TrialSpec, rules: LayoutRules, data: EncodedTask) -> None:
        self.check_context(data, spec.max_tokens)
        if spec.max_tokens is None:
            return
        for split in ("train", *SEARCH_SPLITS):
            rows = data.rows(split)
            longest = max(len(whole_layout(rules, row.ids, row.query_length)) for row in rows)
            if longest > spec.max_tokens:
                raise TaskError(
                    f"a row of {split} has {longest} tokens with its latents, above "
                    f"data.max_tokens={spec.max_tokens}: raise it, shorten the task's rows, or "
                    f"insert less than {spec.config.strategy.short_name}"
                )

    def _gather_gradients(self, trials: Sequence[ResidentTrial]) -> list[float]:
        """Forward and backward for one step of each trial; returns their mean losses."""
        rows = [
            prepare(owner, trial.data.rows("train")[index], trial.rules)
            for owner, trial in enumerate(trials)
            for index in trial.stream.rows(trial.step, trial.config.optim.batch_rows)
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

    def _score(
        self, trials: Sequence[ResidentTrial], rows: Sequence[PreparedRow], split: Split
    ) -> list[dict[str, float]]:
        scores: list[list[tuple[int, dict[str, float]]]] = [[] for _ in trials]
        for batch in micro_batches(rows, self.micro_batch_tokens):
            logits_JV, labels_J, _ = labelled_logits(
                self.base.model, batch, [trial.latents for trial in trials]
            )
            right_J = (logits_JV.argmax(-1) == labels_J).cpu().numpy()
            begin = 0
            for row in batch:
                end = begin + len(row.response)
                metrics = trials[row.owner].data.score(row.row, right_J[begin:end])
                scores[row.owner].append((row.row.distance, metrics))
                begin = end
        return [mean_by_distance(trial_scores, split) for trial_scores in scores]

    def _trial(self, uid: str) -> ResidentTrial:
        try:
            return self._trials[uid]
        except KeyError:
            raise UnknownTrialError(
                f"trial {uid} is not in this engine: join it (again) with its last state"
            ) from None


def _extra_tokens_pct(rows: Sequence[PreparedRow], owner: int) -> float:
    own = [row for row in rows if row.owner == owner]
    latents = sum(row.layout.latent_count for row in own)
    return 100.0 * latents / sum(len(row.row.ids) for row in own)
