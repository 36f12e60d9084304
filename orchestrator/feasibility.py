"""Which strategies of a space a base model could carry on a search's rows, before any is tried.

A trial that cannot be is refused when it joins an engine, and the search draws another; a space
of such trials alone is refused before anything starts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from orchestrator.search_config import SearchConfig
from search_spaces import enumerate_configs, sample_configs
from trainable.errors import LatentuneError, TaskError
from trainable.strategy import InsertionStrategy, PositionRule
from trainable.trial import TrialConfig

if TYPE_CHECKING:
    from trainable.base_model.source import ModelSource
    from trainable.data import EncodedTask, Task
    from trainable.delimiters import Vocabulary

SAMPLES = 300  # of a large space


def legal_strategies(config: SearchConfig) -> Iterator[InsertionStrategy]:
    """The legal ones of the space: all of a small one, else a sample."""
    return (trial.strategy for trial in legal_trials(config))


def legal_trials(config: SearchConfig) -> Iterator[TrialConfig]:
    """The legal configurations of the space: all of a small one, else a sample."""
    space = config.space.build()
    finite = space.size() <= SAMPLES
    drawn = [point.config for point in enumerate_configs(space)] if finite else []
    for data in drawn or sample_configs(space, SAMPLES):
        try:
            yield TrialConfig.from_dict(data)
        except LatentuneError:  # a run draws again
            continue


def model_source(config: SearchConfig) -> ModelSource:
    """The base model that a search names; no weight is read."""
    # transformers takes seconds to import; tasks that make their rows do without.
    from trainable.base_model.options import LoadOptions
    from trainable.base_model.source import ModelSource

    options = config.base_model.model_dump(mode="json")
    return ModelSource(options.pop("path"), LoadOptions(**options))


def context_of_source(source: ModelSource) -> int | None:
    """The model's context in tokens; None where its configuration does not say."""
    text_config = source.config().get_text_config(decoder=True)
    context: int | None = getattr(text_config, "max_position_embeddings", None)
    return context


def refusal(
    strategy: InsertionStrategy,
    vocabulary: Vocabulary,
    data: EncodedTask,
    config: SearchConfig,
    context: int | None,
) -> str | None:
    """Why an engine would refuse a trial of this strategy; None where it would not."""
    from trainable.lengths import check_own_positions, long_train_rows, refuse_long

    rules, max_tokens = vocabulary.rules(strategy), config.data.max_tokens
    try:
        if strategy.position_rule is PositionRule.OWN and context is not None:
            check_own_positions(strategy, rules, data, context)
        if max_tokens is not None and config.data.long_rows == "drop":
            long_train_rows(strategy, rules, data, max_tokens)
        elif max_tokens is not None:
            refuse_long(strategy, rules, data, max_tokens)
    except TaskError as error:
        return str(error)
    return None


def refuse_impossible(config: SearchConfig, task: Task) -> None:
    """Refuse a small space whose every strategy leaves the context with latents' own positions.

    Raises:
        TaskError: with the first one's reason.
    """
    if config.space.build().size() > SAMPLES:
        return
    strategies = {strategy.short_name: strategy for strategy in legal_strategies(config)}
    if not all(one.position_rule is PositionRule.OWN for one in strategies.values()):
        return  # nor is anything imported for it
    from trainable.data import EncodedTask
    from trainable.delimiters import Vocabulary
    from trainable.lengths import row_limit

    source = model_source(config)
    context, tokenizer = context_of_source(source), source.tokenizer()
    drops = config.data.long_rows == "drop"
    limit = row_limit(context, config.data.max_tokens) if drops else None
    data = EncodedTask(task, tokenizer, drop_above=limit)
    size = source.config().get_text_config(decoder=True).vocab_size
    vocabulary = Vocabulary(tokenizer, size)
    refuse_if_all([refusal(one, vocabulary, data, config, context) for one in strategies.values()])


def refuse_if_all(refusals: list[str | None]) -> None:
    """Raise TaskError if not one strategy is left."""
    reasons = [reason for reason in refusals if reason is not None]
    if reasons and len(reasons) == len(refusals):
        raise TaskError(f"space: no strategy of it can be trained; {reasons[0]}")
