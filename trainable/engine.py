"""One frozen model that trains and evaluates many trials together.

    trial A  [rows]--.
    trial B  [rows]--+--> one batch --> frozen model --> sum over trials of each trial's mean loss
    trial C  [rows]--'                                   one backward; no gradient crosses trials

Trials differ only in rows of `inputs_embeds`, so they share everything else. Each has its
own latents, AdamW moments, learning rate, schedule, clipping and seed. A trial joins or
leaves between two steps.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal
from weakref import WeakValueDictionary

import torch

from trainable.base_model.loading import BaseModel
from trainable.batch import PreparedRow
from trainable.compute import Precision, TrainingCompute
from trainable.data import EncodedTask, ExampleStream, LongRows, Split, Task, mean_by_distance
from trainable.decoding import LatentLM
from trainable.delimiters import Vocabulary
from trainable.errors import TrialError, UnknownTrialError
from trainable.evaluation import Forced, forced_scores
from trainable.lanes import Lanes, lanes_for
from trainable.latent_adamw import LatentAdamW
from trainable.latents import init_latents
from trainable.layout_rules import Bools, LayoutRules
from trainable.lengths import (
    check_own_positions,
    check_verbal_lengths,
    long_train_rows,
    refuse_long,
    row_limit,
)
from trainable.memory import TokenBudget, probe_tokens
from trainable.positions import context_of
from trainable.prefix_plan import Sharing
from trainable.resident import ResidentTrial, starting_rows
from trainable.scoring import score_answers, score_split
from trainable.selftest import check_decoding
from trainable.state import TrialState
from trainable.strategy import InsertionStrategy, PositionRule
from trainable.training_step import SlotCount, gather_gradients, train_step
from trainable.trial import TrialConfig

MICRO_BATCH_TOKENS = {"cpu": 2048, "cuda": 32768}


@dataclass(frozen=True)
class TrialSpec:
    """What an engine needs to take a trial in.

    Args:
        uid, name: unique among the engine's trials; in messages, the uid where there is none.
        config: strategy, init, optimiser and seed.
        budget_steps: optimiser steps of a full run; the schedule's horizon.
        data_seed: the search's, for the order of examples.
        max_tokens: the longest row allowed, latents included; None for no limit of one's own.
        long_rows: what becomes of longer ones. `refuse` refuses the trial; `drop` leaves them out
            of its training, and counts them. Scores are always of all rows that the task has.
        times_decoding: whether an evaluation also times decoding, as `cost/ms_per_token`.
    """

    uid: str
    config: TrialConfig
    budget_steps: int
    data_seed: int = 0
    max_tokens: int | None = None
    long_rows: LongRows = "refuse"
    times_decoding: bool = False
    name: str = ""


class Engine:
    """A frozen model and the trials that live on it.

    Args:
        base: from `load_base`.
        micro_batch_tokens: slots, padding included, that go through the model at once; bounds
            the memory, changes no result beyond rounding. Default by device: a GPU wants many;
            a CPU is busy with few, and small batches of rows of like length are padded less.
            `auto` tries on a GPU what fits. Halved, once and for all, where memory runs out.
        precision: `bfloat16` trains a float32 base with bfloat16 products; None: as loaded.
        compiled: compile the decoder for training; a minute at the start, 1.3 to 1.9 times as
            fast on two CPU cores.
        share_prefixes: whether what stands before the first site is computed once for all rows
            that begin with it: where it saves time, wherever there is such a thing, or never.
            Changes no result beyond rounding. Compiled training and checkpointed activations
            go without.
        checkpoint_activations: trade time for memory where a single row hardly fits.
        deterministic: one trial per forward, and no prefix shared, so that no bit of a trial
            depends on its neighbours. What that costs is the fusion.
        lanes: micro-batches that run side by side on a CPU, with a share of the tokens each.
            Default: as many as torch has threads and 512 tokens each, and one where compiled,
            checkpointed or deterministic.

    Raises:
        BaseModelError: if the model attends otherwise than the method needs, or the options do
            not go together or with this model.
    """

    def __init__(
        self,
        base: BaseModel,
        *,
        micro_batch_tokens: int | Literal["auto"] | None = None,
        precision: Precision | None = None,
        compiled: bool = False,
        checkpoint_activations: bool = False,
        share_prefixes: Sharing = "auto",
        deterministic: bool = False,
        lanes: int | None = None,
    ) -> None:
        self.base = base
        self.slots = SlotCount()
        self.deterministic = deterministic
        sharing: Sharing = "off" if deterministic else share_prefixes
        self._compute = TrainingCompute(
            base.model,
            precision=precision,
            compiled=compiled,
            checkpoint_activations=checkpoint_activations,
            share_prefixes=sharing,
        )
        self._sharing: Sharing = sharing
        check_decoding(base.model)  # before a search, not after it
        width = int(next(base.embeddings.parameters()).shape[-1])
        self._adamw = LatentAdamW(width, base.model.device, base.model.dtype)
        self._trials: dict[str, ResidentTrial] = {}
        self._streams = WeakValueDictionary[tuple[int, int], ExampleStream]()
        self._vocabulary = Vocabulary(
            base.tokenizer, base.model.config.get_text_config().vocab_size
        )
        tokens = self._tokens(micro_batch_tokens)
        alone = deterministic or compiled or checkpoint_activations
        lanes = lanes or (1 if alone else lanes_for(base.model, tokens))
        self._budget = TokenBudget(tokens, Lanes(lanes))

    @property
    def micro_batch_tokens(self) -> int:
        """The most slots that go through the model at once, as of now."""
        return self._budget.tokens

    def batches(self, rows: Sequence[PreparedRow]) -> Iterator[list[PreparedRow]]:
        """The micro-batches that rows are cut into where none shares a prefix."""
        return self._budget.batches(rows)

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
        latents_LD = init_latents(
            config.init,
            config.strategy.latent_count,
            config.seed,
            self.base.embeddings,
            self.base.tokenizer,
        )
        rows_3LD = starting_rows(spec.name or spec.uid, latents_LD, state)
        self._adamw.add(spec.uid, rows_3LD)
        self._trials[spec.uid] = ResidentTrial(
            uid=spec.uid,
            config=config,
            adamw=self._adamw,
            rules=rules,
            data=data,
            stream=self._stream(len(data.rows("train")), spec.data_seed),
            budget_steps=spec.budget_steps,
            step=0 if state is None else state.step,
            dropped_N=dropped_N,
            times_decoding=spec.times_decoding,
            name=spec.name,
        )

    def leave(self, uid: str) -> None:
        """Let a trial go; its rows are free from the next step on."""
        self._trial(uid)
        del self._trials[uid]
        self._adamw.remove(uid)

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
            latents, or without a row in this step, have nothing to train: they count the step
            and are not in the result. Neither are trials that have failed.

        Raises:
            NumericError: never from here; a trial that stops being finite fails alone, and its
                `raise_failure` tells.
        """
        trials = [self._trial(uid) for uid in (self._trials if uids is None else uids)]
        ready: list[ResidentTrial] = []
        for trial in trials:
            if not (trial.trains and trial.next_rows()):
                trial.step += 1
            elif trial.failure is None:
                ready.append(trial)
        losses: dict[str, float] = {}
        for group in self._groups(ready):
            losses |= train_step(self._compute, self._adamw, group, self._budget, self.slots)
        return losses

    def gradients(self, uids: Sequence[str]) -> list[torch.Tensor]:
        """The gradients of the next step, one [L, D] per trial, without taking it: for tests."""
        table = self._adamw.table(uids)
        trials = [self._trial(uid) for uid in uids]
        gather_gradients(self._compute, trials, table, self._budget, SlotCount())
        return list(table.gradients().float().split(table.counts))

    def resident_bytes(self, uid: str) -> int:
        """What a trial holds on the device while it waits: its latents and their moments."""
        return self._adamw.rows(self._trial(uid).uid).nbytes

    def raise_failure(self, uid: str) -> None:
        """Raise the error of a trial that has failed, if it has."""
        failure = self._trial(uid).failure
        if failure is not None:
            raise failure

    def evaluate(self, uids: Sequence[str], splits: Sequence[Split]) -> dict[str, dict[str, float]]:
        """Score trials on splits, teacher-forced, all of them in the same batches.

        Greedy decoding gives the reference exactly when the teacher-forced argmax is right at
        every labelled place, so `exact_match` is that of free-running greedy decoding, for the
        price of one forward. Other scores are given the reference's own prefix.

        Returns:
            uid to metric name to value: `val_ood/exact_match`, `val_ood/exact_match/12`, …,
            `cost/extra_tokens_pct`, which is 100 · latents / verbal tokens over the first split,
            `cost/ms_per_token`, where the trial's spec asks for it, and, where rows were dropped,
            `cost/dropped_rows_pct` of the training rows. A trial whose answers cannot be scored
            fails alone, and its `raise_failure` tells.
        """
        pieces = self.evaluation(uids, splits)
        while True:
            try:
                next(pieces)
            except StopIteration as end:
                results: dict[str, dict[str, float]] = end.value
                return results

    def evaluation(
        self, uids: Sequence[str], splits: Sequence[Split]
    ) -> Generator[None, None, dict[str, dict[str, float]]]:
        """`evaluate`, a piece at a time: between two, other trials may take steps.

        The trials in it must not be trained before it is through; one that leaves meanwhile is
        left out from then on.
        """
        return self._evaluation([self._trial(uid) for uid in uids], splits)

    def _evaluation(
        self, trials: list[ResidentTrial], splits: Sequence[Split]
    ) -> Generator[None, None, dict[str, dict[str, float]]]:
        results: dict[str, dict[str, float]] = {trial.uid: {} for trial in trials}
        for place, split in enumerate(splits):
            for group in self._groups(trials):
                residents = [trial for trial in group if self._holds(trial)]
                scores = yield from self._group_scores(residents, split, with_costs=place == 0)
                for trial, found in zip(residents, scores, strict=True):
                    results[trial.uid] |= found
        return results

    def forced_scores(
        self, rows: Sequence[PreparedRow], latents: Sequence[torch.Tensor]
    ) -> Iterator[Forced]:
        """`evaluation.forced_scores` of owners that need not be inside, as this engine computes.

        Args:
            rows: of any owners.
            latents: per owner, its [L, D] parameter.

        Raises:
            RowMemoryError: if a row does not fit into the memory.
        """
        groups = [rows]
        if self.deterministic:
            groups = [[row for row in rows if row.owner == owner] for owner in range(len(latents))]
        for group in groups:
            yield from forced_scores(self.base.model, group, latents, self._budget, self._sharing)

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

    def _tokens(self, asked: int | Literal["auto"] | None) -> int:
        """How many slots to begin with."""
        device = self.base.model.device
        if asked == "auto" and device.type == "cuda":
            return probe_tokens(self._compute.probe, device)
        return MICRO_BATCH_TOKENS[device.type] if asked in (None, "auto") else int(asked)

    def _groups(self, trials: Sequence[ResidentTrial]) -> list[Sequence[ResidentTrial]]:
        """Which trials share their forwards: all of them, or none with another."""
        return [[trial] for trial in trials] if self.deterministic else [trials]

    def _stream(self, size: int, seed: int) -> ExampleStream:
        """The order of examples that all trials of a search share, as long as one is inside."""
        stream = self._streams.get((size, seed)) or ExampleStream(size, seed)
        self._streams[size, seed] = stream
        return stream

    def _holds(self, trial: ResidentTrial) -> bool:
        """Whether a trial is still inside, and not another one of its uid."""
        return self._trials.get(trial.uid) is trial

    def _group_scores(
        self, trials: Sequence[ResidentTrial], split: Split, *, with_costs: bool
    ) -> Generator[None, None, list[dict[str, float]]]:
        """Scores, and costs, of trials that share their forwards; any of them may leave."""
        model = self.base.model
        # Copies from before the first piece: later a trial may have left with its latents.
        lms = {trial.uid: self._decoder_of(trial) for trial in trials if trial.decodes}
        tallies = yield from score_split(model, trials, split, self._budget, self._sharing)
        yield from score_answers(trials, lms, tallies, split, self._holds)
        scores = [mean_by_distance(tally.scores, split) for tally in tallies]
        if with_costs:
            for trial, tally, found in zip(trials, tallies, scores, strict=True):
                found |= tally.costs() | trial.costs()
                if trial.times_decoding and self._holds(trial):
                    found |= trial.decoding_cost(lms[trial.uid], split)
                    yield
        return scores

    def _decoder_of(self, trial: ResidentTrial) -> LatentLM:
        """The frozen model with a copy of a trial's latents."""
        latents_LD = trial.latents.detach().clone()
        return LatentLM(self.base.model, self.base.tokenizer, trial.rules, latents_LD)

    def _trial(self, uid: str) -> ResidentTrial:
        try:
            return self._trials[uid]
        except KeyError:
            raise UnknownTrialError(
                f"trial {uid} is not in this engine: join it (again) with its last state"
            ) from None
