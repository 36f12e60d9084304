"""One trial as PEFT trains it, with the frozen model to itself.

A process that Tune hands on to the next trial has loaded the base model and encoded the rows once;
a trial takes a copy of the model, as PEFT and new tokens change it.

Shape suffixes: B rows, T tokens.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from peft import PromptTuningConfig, TaskType, TrainableTokensConfig, get_peft_model

from benchmarks.setting import Setting
from benchmarks.workload import stream_rows
from trainable.base_model.loading import BaseModel
from trainable.data import EncodedRow, EncodedTask
from trainable.delimiters import Vocabulary
from trainable.layout import NOT_LATENT, whole_layout
from trainable.resident import schedule_factor
from trainable.strategy import InsertionStrategy
from trainable.tasks import build_task
from trainable.trial import OptimConfig

_IGNORED = -100
_AT_ONCE = 32  # rows of a batch in evaluation


@functools.cache
def loaded(task: str) -> tuple[BaseModel, EncodedTask, Vocabulary]:
    """What all trials of a process share.

    Args:
        task: its configuration, as JSON.
    """
    base = Setting().base()
    data = EncodedTask(build_task(json.loads(task), seed=0), base.tokenizer)
    return base, data, Vocabulary(base.tokenizer, base.model.config.vocab_size)


class GluedTrial:
    """A PEFT model and its optimiser.

    Args:
        config: `triggers`, `lr`, `seed`, `task`, `batch_rows`, `budget_steps`.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        base, self._data, words = loaded(json.dumps(config["task"]))
        torch.manual_seed(config["seed"])
        self.steps = 0
        self._budget = config["budget_steps"]
        self._optim = OptimConfig(lr=config["lr"], batch_rows=config["batch_rows"])
        strategy = InsertionStrategy.from_dict(
            {"triggers": config["triggers"], "position_rule": "own"}
        )
        vocabulary = base.model.config.vocab_size
        self._rules = words.rules(strategy)
        count = strategy.latent_count
        whole: Any = copy.deepcopy(base.model)
        self._at_start = list(config["triggers"]) == ["start"]
        self._first_new = vocabulary
        if self._at_start:
            peft: Any = PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=count)
        else:
            whole.resize_token_embeddings(vocabulary + count)
            peft = TrainableTokensConfig(
                task_type=TaskType.CAUSAL_LM,
                token_indices=list(range(vocabulary, vocabulary + count)),
            )
        self._model: Any = get_peft_model(whole, peft)
        self._trained = [p for p in self._model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(self._trained, lr=config["lr"], weight_decay=0.0)

    def train(self, steps: int) -> None:
        """Take optimiser steps."""
        rows = self._data.rows("train")
        for _ in range(steps):
            batch = stream_rows(self._data, self.steps, self._optim.batch_rows)
            self._model(**self._collate([rows[place] for place in batch])).loss.backward()
            torch.nn.utils.clip_grad_norm_(self._trained, 1.0)
            for group in self._optimizer.param_groups:
                factor = schedule_factor(self._optim, self.steps, self._budget)
                group["lr"] = self._optim.lr * factor
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
            self.steps += 1

    @torch.no_grad()
    def evaluate(self) -> float:
        """Mean loss over both validation splits' rows; the other arm scores both, too."""
        losses = []
        for split in ("val_id", "val_ood"):
            rows = list(self._data.rows(split))
            losses.append(
                [
                    float(self._model(**self._collate(rows[at : at + _AT_ONCE])).loss)
                    for at in range(0, len(rows), _AT_ONCE)
                ]
            )
        return float(np.mean(losses[0]))

    def state(self) -> dict[str, Any]:
        """What is trained, and the optimiser's moments."""
        trained = [parameter.detach().clone() for parameter in self._trained]
        return {
            "steps": self.steps,
            "trained": trained,
            "optimizer": self._optimizer.state_dict(),
        }

    @torch.no_grad()
    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.steps = state["steps"]
        for parameter, saved in zip(self._trained, state["trained"], strict=True):
            parameter.copy_(saved)
        self._optimizer.load_state_dict(state["optimizer"])

    def _collate(self, rows: Sequence[EncodedRow]) -> dict[str, torch.Tensor]:
        """Rows as a batch, special tokens where the strategy puts latents."""
        placed = [self._placed(row) for row in rows]
        width = max(len(ids) for ids, _ in placed)
        ids_BT = np.zeros((len(rows), width), dtype=np.int64)
        labels_BT = np.full((len(rows), width), _IGNORED, dtype=np.int64)
        mask_BT = np.zeros((len(rows), width), dtype=np.int64)
        for line, (ids, labels) in enumerate(placed):
            ids_BT[line, : len(ids)] = ids
            labels_BT[line, : len(ids)] = labels
            mask_BT[line, : len(ids)] = 1
        return {
            "input_ids": torch.from_numpy(ids_BT),
            "labels": torch.from_numpy(labels_BT),
            "attention_mask": torch.from_numpy(mask_BT),
        }

    def _placed(self, row: EncodedRow) -> tuple[Any, Any]:
        labels = np.where(np.arange(len(row.ids)) < row.query_length, _IGNORED, row.ids)
        if self._at_start:
            return row.ids, labels
        layout = whole_layout(self._rules, row.ids, row.query_length).without_pending()
        is_latent_T = layout.latent_T != NOT_LATENT
        ids = np.where(is_latent_T, self._first_new + layout.latent_T, row.ids[layout.verbal_T])
        return ids, np.where(is_latent_T, _IGNORED, labels[layout.verbal_T])
