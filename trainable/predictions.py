"""A person's data, item by item: what latents make a frozen model write, and how good it is.

    row  id  distance  prompt  reference  answer  exact_match  normalised_match  token_accuracy
    nll  …  response_tokens  latents  tokens

The answer is the model's own, decoded greedily from the prompt; `exact_match` compares its
tokens with the reference's, the end included. `token_accuracy` and `nll` are of the
reference's tokens, each given those before it. `tokens` counts query and response without
latents, `latents` those that the two get.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from trainable.answer_metrics import AnswerMetric, judge_all
from trainable.answers import free_answers
from trainable.batch import prepare
from trainable.data import EncodedRow, Example
from trainable.decoding import LatentLM
from trainable.engine import MICRO_BATCH_TOKENS
from trainable.errors import TaskError
from trainable.evaluation import answer_limit, forced_scores
from trainable.layout_rules import LayoutRules
from trainable.lengths import check_data_rows
from trainable.memory import TokenBudget
from trainable.metrics import common_metrics
from trainable.positions import context_of
from trainable.records.table import RecordTable, TableSplit
from trainable.strategy import InsertionStrategy

BASELINE_PREFIX = "base_"
_OTHER_COLUMNS = frozenset(
    {"row", "id", "distance", "prompt", "reference", "answer"}
    | {"response_tokens", "tokens", "latents"}
)


@dataclass(frozen=True)
class Predictions:
    """One line per item.

    Args:
        table: the columns above, the person's own metrics after `nll`, and with a baseline the
            frozen model's answer and metrics under `base_…`.
        metrics: the names of the columns that are metrics.
        max_new_tokens: the most tokens that an answer could have.
    """

    table: pa.Table
    metrics: tuple[str, ...]
    max_new_tokens: int

    def means(self, prefix: str = "") -> dict[str, float]:
        """Each metric's mean over all items; where there are several distances, of each too.

        Args:
            prefix: `BASELINE_PREFIX` for the frozen model alone.
        """
        distances_N = self.table["distance"].to_numpy()
        found = {}
        for name in self.metrics:
            values_N = self.table[prefix + name].to_numpy()
            found[name] = float(values_N.mean())
            for distance in np.unique(distances_N) if len(np.unique(distances_N)) > 1 else ():
                found[f"{name}/{distance}"] = float(values_N[distances_N == distance].mean())
        return found

    def extra_tokens_pct(self) -> float:
        """100 · latents / verbal tokens over all items."""
        latents, tokens = (self.table[name].to_numpy().sum() for name in ("latents", "tokens"))
        return float(100.0 * latents / tokens)


def predict(
    lm: LatentLM,
    records: RecordTable,
    metrics: Mapping[str, AnswerMetric],
    *,
    max_new_tokens: int | None = None,
    rows_at_once: int = 64,
    baseline: bool = False,
) -> Predictions:
    """Let the model answer every prompt, and score it.

    Args:
        metrics: of an answer, by name.
        max_new_tokens: default the longest reference and a margin.
        baseline: also with the frozen model alone.

    Raises:
        BadRowsError: naming the rows that the model's context does not hold; nothing is decoded
            then.
        TaskError: if a metric's name is a column's, or it raises or returns no finite number.
    """
    for name in metrics:
        if name in _OTHER_COLUMNS or name.startswith(BASELINE_PREFIX):
            raise TaskError(f"metric {name} has the name of another column: rename the function")
    count = len(records)
    split = TableSplit(records, np.arange(count), np.maximum(records.distances_N, 0))
    rows, examples = split.rows(), split.examples()
    check_data_rows(examples, rows, lm.rules, context_of(lm.frozen))
    limit = max_new_tokens or answer_limit(rows)
    scored = _Scored(rows, examples, metrics, limit, rows_at_once)
    columns: dict[str, Sequence[object]] = {
        "row": [records.origin(place)[1] for place in range(count)],
        "id": pa.array([records.identifier(place) for place in range(count)], pa.string()),
        "distance": [row.distance for row in rows],
        "prompt": [example.prompt for example in examples],
        "reference": [example.completion for example in examples],
    }
    own = scored.by(lm)
    names = tuple(name for name in own if name not in ("answer", "latents"))
    tail = {
        "response_tokens": [len(row.ids) - row.query_length for row in rows],
        "latents": own.pop("latents"),
        "tokens": [len(row.ids) for row in rows],
    }
    if baseline:
        bare = scored.by(without_latents(lm))
        del bare["latents"]
        tail |= {BASELINE_PREFIX + name: values for name, values in bare.items()}
    return Predictions(pa.table(columns | own | tail), names, limit)


def without_latents(lm: LatentLM) -> LatentLM:
    """The frozen model alone, behind the same interface."""
    rules = LayoutRules.build(InsertionStrategy(), {}, lm.tokenizer.bos_token_id)
    return LatentLM(lm.frozen, lm.tokenizer, rules, torch.zeros_like(lm.latents[:0]))


@dataclass(frozen=True)
class _Scored:
    """Items, and how to score them."""

    rows: Sequence[EncodedRow]
    examples: Sequence[Example]
    metrics: Mapping[str, AnswerMetric]
    max_new_tokens: int
    rows_at_once: int

    def by(self, lm: LatentLM) -> dict[str, Sequence[object]]:
        """Answers, metrics and latents of one model, as columns."""
        answers = free_answers(lm, self.rows, self.max_new_tokens, self.rows_at_once)
        forced, latents = self._forced(lm)
        lines = []
        for place, (row, ids) in enumerate(zip(self.rows, answers, strict=True)):
            example, response = self.examples[place], row.ids[row.query_length :]
            answer, reference = (
                str(lm.tokenizer.decode(one, skip_special_tokens=True)) for one in (ids, response)
            )
            judged = judge_all(
                self.metrics,
                example.origin,
                answer=answer,
                reference=reference,
                prompt=example.prompt,
            )
            free = {"answer": answer, "exact_match": float(np.array_equal(ids, response))}
            lines.append(free | {k: v for k, v in forced[place].items() if k not in free} | judged)
        columns: dict[str, Sequence[object]] = {
            name: [line[name] for line in lines] for name in lines[0]
        }
        return columns | {"latents": latents}

    def _forced(self, lm: LatentLM) -> tuple[list[dict[str, float]], list[int]]:
        """The reference's own metrics, and how many latents it gets, in the items' order."""
        prepared = [prepare(0, row, lm.rules) for row in self.rows]
        places = {id(row): place for place, row in enumerate(prepared)}
        found: dict[int, dict[str, float]] = {}
        budget = TokenBudget(MICRO_BATCH_TOKENS[lm.device.type])
        for row, right_N, nll_N in forced_scores(lm.frozen, prepared, [lm.latents], budget):
            found[places[id(row)]] = common_metrics(right_N, nll_N)
        latents = [row.layout.latent_count for row in prepared]
        return [found[place] for place in range(len(prepared))], latents
