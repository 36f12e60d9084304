"""What trials cost, laid out on a search's rows before anything is trained.

    cost/extra_tokens_pct    100 · latents / verbal tokens over val_id: limits are held against it
    tokens                   verbal tokens and latents of the rows of some training steps

Both are exact: they are counted on the rows that an engine will read, in the order in which
it will read them, without a weight of the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.feasibility import context_of_source, model_source
from orchestrator.search_config import SearchConfig
from orchestrator.search_data import checked_task
from trainable.errors import TaskError
from trainable.trial import TrialConfig

if TYPE_CHECKING:
    from trainable.data import EncodedTask
    from trainable.delimiters import Vocabulary
    from trainable.layout_rules import Bools, LayoutRules
    from trainable.strategy import InsertionStrategy

EXTRA_TOKENS = "cost/extra_tokens_pct"
_STRATEGIES = 4096  # whose costs are remembered


class LayoutCosts:
    """Counts a search's costs.

    Args:
        config: the search.
        data: its rows, encoded.
        vocabulary: its base model's.
    """

    def __init__(self, config: SearchConfig, data: EncodedTask, vocabulary: Vocabulary) -> None:
        self._config = config
        self._data = data
        self._vocabulary = vocabulary
        self._extra = lru_cache(_STRATEGIES)(self._count_extra)
        self._rules: dict[str, tuple[LayoutRules, Bools | None]] = {}

    def against_limits(self, trial: TrialConfig) -> tuple[Mapping[str, float], Mapping[str, float]]:
        """What a trial costs, and by how much that is above each limit; nothing without limits."""
        if not self._config.limits:
            return {}, {}
        costs = {EXTRA_TOKENS: self.extra_tokens_pct(trial.strategy)}
        return costs, {name: costs[name] - limit for name, limit in self._config.limits.items()}

    def fits(self, trial: TrialConfig) -> bool:
        """Whether a trial keeps all limits: others are never trained."""
        return all(excess <= 0 for excess in self.against_limits(trial)[1].values())

    def extra_tokens_pct(self, strategy: InsertionStrategy) -> float:
        """100 · latents / verbal tokens over all rows of val_id, as the engine measures it."""
        return self._extra(_Key(strategy))

    def tokens(self, trial: TrialConfig, begin: int, end: int) -> int:
        """The tokens that a trial is trained on from one optimiser step to another."""
        from trainable.token_count import train_tokens

        name = repr(trial.strategy.to_dict())
        if name not in self._rules:
            self._rules[name] = self._train_rules(trial.strategy)
        rules, dropped_N = self._rules[name]
        return train_tokens(
            trial,
            rules,
            self._data,
            data_seed=self._config.data.seed,
            begin=begin,
            end=end,
            dropped_N=dropped_N,
        )

    def _count_extra(self, key: _Key) -> float:
        from trainable.layout import whole_layout

        rules, latents, tokens = self._vocabulary.rules(key.strategy), 0, 0
        for row in self._data.rows("val_id"):
            layout = whole_layout(rules, row.ids, row.query_length).without_pending()
            latents += layout.latent_count
            tokens += len(row.ids)
        return 100.0 * latents / tokens

    def _train_rules(self, strategy: InsertionStrategy) -> tuple[LayoutRules, Bools | None]:
        """A strategy's rules, and which training rows its trials leave out."""
        from trainable.lengths import long_train_rows

        rules, dropped_N = self._vocabulary.rules(strategy), None
        most = self._config.data.max_tokens
        if most is not None and self._config.data.long_rows == "drop":
            dropped_N = long_train_rows(strategy, rules, self._data, most)
        return rules, dropped_N


class _Key:
    """A strategy as a key; its own fields hold mappings, which have no hash."""

    def __init__(self, strategy: InsertionStrategy) -> None:
        self.strategy = strategy
        self._text = repr(strategy.to_dict())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)


def open_costs(config: SearchConfig, home: Path) -> LayoutCosts | None:
    """The costs of a search that limits them; None where it does not: nothing is read then.

    Raises:
        TaskError: for limits that no strategy of the space keeps.
    """
    if not config.limits and config.budget.tokens is None:
        return None
    # transformers takes seconds to import; a search without limits needs it in its engine alone.
    from trainable.data import EncodedTask
    from trainable.delimiters import Vocabulary
    from trainable.lengths import row_limit

    source = model_source(config)
    tokenizer, most = source.tokenizer(), config.data.max_tokens
    task, _ = checked_task(config, home, tokenizer)
    limit = row_limit(context_of_source(source), most) if config.data.long_rows == "drop" else None
    data = EncodedTask(task, tokenizer, drop_above=limit)
    size = source.config().get_text_config(decoder=True).vocab_size
    costs = LayoutCosts(config, data, Vocabulary(tokenizer, size))
    check_reachable(config, costs)
    return costs


def check_reachable(config: SearchConfig, costs: LayoutCosts) -> None:
    """Refuse limits that no strategy of a sample keeps, or of a small space none at all.

    Raises:
        TaskError: with the cheapest.
    """
    if not config.limits:
        return
    from orchestrator.feasibility import legal_strategies

    cheapest: tuple[float, str] | None = None
    for strategy in legal_strategies(config):
        found = costs.extra_tokens_pct(strategy), strategy.short_name
        cheapest = found if cheapest is None else min(cheapest, found)
        if found[0] <= config.limits[EXTRA_TOKENS]:
            return
    if cheapest is not None:
        raise TaskError(
            f"limits.{EXTRA_TOKENS}={config.limits[EXTRA_TOKENS]:g}: no strategy of the space "
            f"keeps it; the cheapest found is {cheapest[1]} with {cheapest[0]:.1f} %: raise the "
            "limit, or search cheaper strategies"
        )
