"""Spaces and configurations under arbitrary draws."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import FixedTrial

from orchestrator.config import SearchConfig, config_differences, load_search
from search_spaces import PRESETS, Space
from trainable.trial import TrialConfig

QUICK = PRESETS["quick"]()
COUNTS = st.integers(1, 10**6)


class DrawnTrial:
    """Lets hypothesis answer a space's suggestions."""

    def __init__(self, data: st.DataObject) -> None:
        self.params: dict[str, Any] = {}
        self._data = data

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._keep(name, self._data.draw(st.sampled_from(choices)))

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        drawn: int = self._keep(name, self._data.draw(st.sampled_from(range(low, high + 1, step))))
        return drawn

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        drawn: float = self._keep(name, self._data.draw(st.floats(low, high)))
        return drawn

    def _keep(self, name: str, value: Any) -> Any:
        assert name not in self.params  # one suggestion per name and sample
        self.params[name] = value
        return value


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_every_sample_of_quick_is_legal_and_replays(data: st.DataObject) -> None:
    trial = DrawnTrial(data)
    sample = QUICK.sample(trial)
    config = TrialConfig.from_dict(sample)
    assert TrialConfig.from_dict(config.to_dict()) == config
    assert QUICK.sample(FixedTrial(trial.params)) == sample
    existing = {
        axis.name
        for axis in QUICK.axes()
        if any(all(trial.params.get(p) == label for p, label in c) for c in axis.condition)
    }
    assert set(trial.params) == existing  # an axis exists exactly where its condition holds


def choices() -> st.SearchStrategy[dict[str, Any]]:
    values = st.lists(st.integers(0, 10**9), min_size=1, max_size=5, unique=True)
    return values.map(lambda found: {"choice": found})


def ranges() -> st.SearchStrategy[dict[str, Any]]:
    rates = st.floats(1e-9, 1e3, exclude_min=True)
    return st.tuples(rates, rates, st.booleans()).map(
        lambda r: {"float": {"low": min(r[:2]), "high": max(r[:2]), "log": r[2]}}
    )


def axes() -> st.SearchStrategy[dict[str, Any]]:
    """Legal trees with texts of all kinds in them."""
    pattern = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).map(
        lambda text: "".join(f"\\{c}" if c in r".^$*+?{}[]\|()" else c for c in text)
    )
    comma = st.fixed_dictionaries(
        {"kind": st.just("delimiter"), "pattern": pattern, "m": st.integers(1, 9)}
    )
    return st.fixed_dictionaries(
        {},
        optional={
            "strategy": st.fixed_dictionaries(
                {"triggers": st.fixed_dictionaries({}, optional={"comma": comma})}
            ),
            "optim": st.fixed_dictionaries({"lr": ranges(), "clip_norm": st.none()}),
            "seed": choices(),
        },
    )


SPACES = st.sampled_from(sorted(PRESETS)) | st.fixed_dictionaries(
    {"axes": axes(), "baselines": st.booleans()}
)
CONFIGS = st.fixed_dictionaries(
    {
        "name": st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True),
        "task": st.fixed_dictionaries(
            {"kind": st.just("generation")}, optional={"train_rows": COUNTS, "val_rows": COUNTS}
        ),
        "space": SPACES,
        "budget": st.fixed_dictionaries(
            {"trials": st.integers(1, 10**4)},
            optional={"steps": st.integers(60, 10**6), "time_s": st.floats(1e-6, 1e12)},
        ),
    },
    optional={
        "base_model": st.fixed_dictionaries(
            {"path": st.text(st.characters(codec="utf-8"), min_size=1)}
        ),
        "sampler": st.fixed_dictionaries({"seed": st.integers(0, 2**32 - 1)}),
        "tracking": st.fixed_dictionaries(
            {"experiment": st.sampled_from(["1", "null", "no", "1e5", "a: b", "#", "~"])}
        ),
    },
)


@given(data=CONFIGS)
@settings(max_examples=150, deadline=None)
def test_a_configuration_survives_its_file(data: dict[str, Any]) -> None:
    config = SearchConfig.model_validate(data)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(config.to_yaml(), encoding="utf-8", newline="")
        read = load_search(file)
    assert read == config
    assert config_differences(config, read) == []


@given(tree=axes())
@settings(max_examples=100, deadline=None)
def test_a_space_keeps_its_tree(tree: dict[str, Any]) -> None:
    space = Space(tree)
    assert space.tree == tree
    assert Space(space.tree) == space


@given(steps=st.integers(1, 10**6), min_steps=st.integers(1, 10**6), factor=st.integers(2, 10))
@settings(max_examples=200, deadline=None)
def test_rungs_ascend_by_the_factor_and_end_at_the_budget(
    steps: int, min_steps: int, factor: int
) -> None:
    config = SearchConfig.model_validate(
        {
            "name": "a",
            "task": {"kind": "generation"},
            "space": "baselines",
            "budget": {"trials": 1, "steps": max(steps, min_steps)},
            "stopping": {"min_steps": min_steps, "factor": factor},
        }
    )
    *judged, last = config.rungs()
    assert last == config.budget.steps
    assert judged == [min_steps * factor**i for i in range(len(judged))]
    assert min_steps * factor ** len(judged) >= last
    assert all(rung < last for rung in judged)
