"""Samplers: what chooses the next configuration, made afresh for each draw.

A draw depends on the sampler's seed, the draw's number and what the study knows, and on
nothing that a process remembers. So a search that was interrupted draws what it would have
drawn without the interruption, given the same results in the same order. Samplers that learn
see the trials that have parameters of the space, and no others.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from typing import TypeAlias

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler

from orchestrator.sampler_view import SpaceSampler
from orchestrator.sections import SamplerConfig

# The number of a draw to the sampler that makes it.
SamplerOf: TypeAlias = Callable[[int], BaseSampler]


def sampler_of(config: SamplerConfig) -> SamplerOf:
    """The samplers that a search's configuration asks for."""

    def make(number: int) -> BaseSampler:
        return _sampler(config, draw_seed(config.seed, number))

    return make


def random_sampler(number: int) -> BaseSampler:
    """A draw that no model has made: what is left where a model insists on what is refused."""
    return RandomSampler(seed=draw_seed(0, number))


def draw_seed(seed: int, number: int) -> int:
    """A seed of a draw's own; neighbouring numbers give unrelated ones."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:4], "big")


def _sampler(config: SamplerConfig, seed: int) -> BaseSampler:
    if config.kind == "gp":
        return SpaceSampler(
            GPSampler(
                seed=seed, n_startup_trials=config.startup_trials, warn_independent_sampling=False
            )
        )
    if config.kind == "nsga2":
        return SpaceSampler(NSGAIISampler(seed=seed, population_size=config.population))
    if config.kind != "tpe":
        return RandomSampler(seed=seed)  # a grid's trials are enqueued, and leave nothing to draw
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # `group`, in Optuna since 2.8
        tpe = TPESampler(
            seed=seed,
            n_startup_trials=config.startup_trials,
            multivariate=True,
            group=True,
            constant_liar=True,
        )
    return SpaceSampler(tpe)
