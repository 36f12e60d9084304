"""The shipped spaces: what they search, and that all of it is legal."""

from __future__ import annotations

from collections import Counter

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FixedTrial

from search_spaces import PRESETS, check_legal, enumerate_configs
from trainable.strategy import PositionRule, Specialization
from trainable.trial import TrialConfig
from trainable.trigger import Readout, Region, Side, TriggerKind

ALONE = CategoricalDistribution([1, 2, 4, 8])
PAIR = CategoricalDistribution([1, 2, 4])


@pytest.mark.parametrize("name", PRESETS)
def test_every_sample_of_every_preset_is_legal(name: str) -> None:
    assert check_legal(PRESETS[name](), samples=300, seed=1) == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_ten_thousand_samples_of_every_preset_are_legal(name: str) -> None:
    assert check_legal(PRESETS[name](), samples=10_000, seed=2) == 1.0


@pytest.mark.parametrize(("name", "size"), [("paper", 18), ("positions", 35), ("roles", 114)])
def test_finite_presets_have_this_size(name: str, size: int) -> None:
    space = PRESETS[name]()
    configs = [TrialConfig.from_dict(point.config) for point in enumerate_configs(space)]
    assert space.size() == len(configs) == size
    assert len({str(config.to_dict()) for config in configs}) == size, "one stands there twice"


def test_paper_is_its_named_configurations_with_three_seeds_each() -> None:
    found = Counter(
        TrialConfig.from_dict(point.config).strategy.short_name
        for point in enumerate_configs(PRESETS["paper"]())
    )
    assert found == dict.fromkeys(
        ["comma1", "comma2", "every8x2", "start1+comma1~by_trigger", "start2", "end2"], 3
    )


def test_positions_searches_the_place_alone() -> None:
    configs = [TrialConfig.from_dict(p.config) for p in enumerate_configs(PRESETS["positions"]())]
    assert {config.optim for config in configs} == {TrialConfig().optim}
    assert {config.strategy.latent_count for config in configs} == {2}
    assert len({config.strategy.short_name for config in configs}) == len(configs)


def test_roles_searches_groups_and_specialization() -> None:
    configs = [TrialConfig.from_dict(p.config) for p in enumerate_configs(PRESETS["roles"]())]
    assert {config.strategy.specialization for config in configs} == set(Specialization)
    assert {config.strategy.groups for config in configs} == {None, *range(2, 9)}


def test_full_searches_the_optimiser() -> None:
    names = {axis.name for axis in PRESETS["full"]().axes() if axis.name.startswith("optim.")}
    fields = ("lr", "weight_decay", "schedule", "warmup_steps", "clip_norm", "batch_rows")
    assert names == {f"optim.{field}" for field in fields}


def test_quick_searches_these_axes() -> None:
    distributions = {axis.name: axis.distribution for axis in PRESETS["quick"]().axes()}
    assert distributions == {
        "strategy.position": CategoricalDistribution(
            ["start", "end", "comma", "every", "start+comma", "start+every"]
        ),
        "strategy.triggers.start.m": ALONE,
        "strategy.triggers.end.m": ALONE,
        "strategy.triggers.comma.m": ALONE,
        "strategy.triggers.every.m": ALONE,
        "strategy.triggers.every.k": IntDistribution(4, 12),
        "strategy.specialization": CategoricalDistribution(["shared", "by_trigger"]),
        "strategy.pair.start.m": PAIR,
        "strategy.pair.comma.m": PAIR,
        "strategy.pair.every.m": PAIR,
        "optim.lr": FloatDistribution(0.005, 0.05, log=True),
        "init.kind": CategoricalDistribution(["normal", "vocab"]),
    }


def test_quick_has_a_period_only_where_every_is() -> None:
    (period,) = (a for a in PRESETS["quick"]().axes() if a.name.endswith(".k"))
    assert period.when == "strategy.position=every or strategy.position=start+every"


@pytest.mark.parametrize(
    ("params", "short_name"),
    [
        ({"strategy.position": "start", "strategy.triggers.start.m": 8}, "start8"),
        ({"strategy.position": "end", "strategy.triggers.end.m": 1}, "end1"),
        ({"strategy.position": "comma", "strategy.triggers.comma.m": 2}, "comma2"),
        (
            {
                "strategy.position": "every",
                "strategy.triggers.every.k": 4,
                "strategy.triggers.every.m": 2,
            },
            "every4x2",
        ),
        (
            {
                "strategy.position": "start+comma",
                "strategy.pair.start.m": 4,
                "strategy.specialization": "shared",
            },
            "start4+comma4",
        ),
        (
            {
                "strategy.position": "start+every",
                "strategy.pair.start.m": 4,
                "strategy.triggers.every.k": 8,
                "strategy.specialization": "by_trigger",
                "strategy.pair.every.m": 2,
            },
            "start4+every8x2~by_trigger",
        ),
    ],
)
def test_quick_makes_these_strategies(params: dict[str, object], short_name: str) -> None:
    sample = PRESETS["quick"]().sample(
        FixedTrial({**params, "optim.lr": 0.01, "init.kind": "vocab"})
    )
    config = TrialConfig.from_dict(sample)
    assert config.strategy.short_name == short_name
    assert (config.optim.lr, config.optim.batch_rows) == (0.01, 8)
    assert (config.init.kind, config.seed) == ("vocab", 0)


def test_optuna_reaches_every_position_of_quick() -> None:
    space = PRESETS["quick"]()
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=40))
    seen: Counter[str] = Counter()
    for _ in range(45):  # the last ones are modelled
        trial = study.ask()
        config = TrialConfig.from_dict(space.sample(trial))
        seen[trial.params["strategy.position"]] += 1
        study.tell(trial, config.optim.lr)
    assert len(seen) == 6


def test_baselines_are_the_frozen_model_and_both_ends() -> None:
    found = {
        c.label: TrialConfig.from_dict(c.config) for c in enumerate_configs(PRESETS["baselines"]())
    }
    assert {label: config.strategy.short_name for label, config in found.items()} == {
        "none": "none",
        "start": "start4",
        "end": "end4",
    }
    assert {config.optim for config in found.values()} == {TrialConfig().optim}
    assert TrialConfig().optim.lr == 0.02


def test_full_reaches_every_axis_of_the_method() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    space = PRESETS["full"]()
    configs = [TrialConfig.from_dict(space.sample(study.ask())) for _ in range(500)]
    strategies = [config.strategy for config in configs]
    triggers = [trigger for s in strategies for trigger in s.triggers.values()]
    assert {s.specialization for s in strategies} == set(Specialization)
    assert {s.position_rule for s in strategies} == set(PositionRule)
    assert {s.groups for s in strategies} == {None, 2, 3, 4}
    assert {t.kind for t in triggers} == set(TriggerKind) - {TriggerKind.RANDOM}
    assert {t.side for t in triggers} == {None, *Side}
    assert {t.region for t in triggers} == {None, *Region}
    assert {t.readout for t in triggers} == set(Readout)
    assert {t.m for t in triggers} == {1, 2, 4, 8, 16}
