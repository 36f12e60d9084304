"""Rows and trials to time: chains of equations, and rows of a fixed number of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trainable.answer_metrics import AnswerMetric
from trainable.base_model.loading import BaseModel
from trainable.data import EncodedTask, Example, ExampleStream, Split
from trainable.engine import Engine, TrialSpec
from trainable.tasks import build_task
from trainable.trial import TrialConfig

TRIGGERS: tuple[dict[str, Any], ...] = (
    {"start": {"kind": "start", "m": 4}},
    {"end": {"kind": "end", "m": 4}},
    {"comma": {"kind": "delimiter", "m": 2}},
    {"every": {"kind": "every", "k": 8, "m": 2}},
)
RATES = (0.005, 0.01, 0.02, 0.04)


@dataclass(frozen=True)
class FixedTask:
    """Rows that all have the same number of tokens, BOS included, one character each.

    Args:
        tokens: of a row.
        response: how many of them are labelled.
    """

    tokens: int
    response: int
    rows: int = 512

    @property
    def splits(self) -> tuple[Split, ...]:
        """Train and one to score on."""
        return ("train", "val_id")

    @property
    def answer_metrics(self) -> Mapping[str, AnswerMetric]:
        """None."""
        return {}

    def examples(self, split: Split) -> Sequence[Example]:
        """Equations without end, cut at the wanted length."""
        seed = np.random.default_rng((len(split), 0))
        rows = self.rows if split == "train" else 16
        texts = []
        for _ in range(rows):
            numbers = seed.integers(10, 99, size=(self.tokens // 9 + 1, 3))
            texts.append(",".join(f"{a}@{b}={c}" for a, b, c in numbers)[: self.tokens - 1])
        cut = self.tokens - 1 - self.response
        return [Example(text[:cut], text[cut:], closed=False, distance=1) for text in texts]

    def score(self, texts: Sequence[str], right_N: npt.NDArray[np.bool_]) -> dict[str, float]:
        """Nothing of its own."""
        return {}


def chains(base: BaseModel, low: int = 3, high: int = 10, **options: Any) -> EncodedTask:
    """The generation task; chains of up to ten equations are those of the demo."""
    task = {
        "kind": "generation",
        "train_lengths": [low, high],
        "val_ood_lengths": [high + 2],
        "test_ood_lengths": [high + 2],
        **options,
    }
    return EncodedTask(build_task(task, seed=0), base.tokenizer)


def fixed_rows(base: BaseModel, tokens: int) -> EncodedTask:
    """Rows of a fixed number of tokens, a quarter of them labelled."""
    return EncodedTask(FixedTask(tokens, tokens // 4), base.tokenizer)


def config(place: int, batch_rows: int, triggers: Mapping[str, Any] | None = None) -> TrialConfig:
    """The configuration of the trial at this place: strategies and learning rates take turns."""
    strategy = {"triggers": triggers or TRIGGERS[place % len(TRIGGERS)]}
    lr = RATES[place // len(TRIGGERS) % len(RATES)]
    optim = {"lr": lr, "batch_rows": batch_rows}
    return TrialConfig.from_dict({"strategy": strategy, "optim": optim, "seed": place})


def join_trials(
    engine: Engine,
    data: EncodedTask,
    count: int,
    batch_rows: int,
    *,
    budget_steps: int = 10_000,
    triggers: Mapping[str, Any] | None = None,
    name: str = "trial",
) -> list[str]:
    """Let trials in; their uids."""
    uids = [f"{name}-{place}" for place in range(count)]
    for place, uid in enumerate(uids):
        engine.join(TrialSpec(uid, config(place, batch_rows, triggers), budget_steps), data)
    return uids


def stream_rows(data: EncodedTask, step: int, batch_rows: int) -> list[int]:
    """The training rows of a step, as every trial of a search reads them."""
    return ExampleStream(len(data.rows("train")), 0).rows(step, batch_rows)
