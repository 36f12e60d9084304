"""Does TPE help here? TPE against random search at equal budget, on a surrogate of this problem.

    python -m benchmarks.curves      # records real trials of the demo's space; minutes
    python -m benchmarks.samplers    # searches a surrogate that is fitted to them; a minute

The surrogate is a forest of randomised trees over the space's own parameters; it answers with its
prediction plus noise of the size of its own error on trials that it was not fitted to. What counts
is the noiseless prediction of what a search picked by its noisy scores. Repeats are paired: both
samplers of a repeat have the same seed for noise. The samplers are those of a search with
`sampler.kind: random` and `tpe`, made afresh for each draw as there.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from sklearn.ensemble import ExtraTreesRegressor

from benchmarks import curves, machine
from benchmarks.stopping import curve_of
from orchestrator.config import SamplerConfig
from orchestrator.sampling import SamplerOf, sampler_of
from search_spaces import PRESETS, Space

REPEATS, TRIALS = 20, 48
AT = (12, 24, 48)  # trials after which the pick is judged
OBJECTIVE = "val_ood/equation_accuracy"
STARTUP = SamplerConfig().startup_trials  # of TPE, as in a search file
KINDS = ("random", "tpe")
LEVEL = 0.95


def main() -> None:
    """Search, keep the numbers, write the page."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    stored = json.loads(curves.FILE.read_text())
    surface = Surface(stored)
    space = PRESETS[stored["setup"]["space"]]()
    best = {
        kind: np.array([search(surface, space, sampler(kind, s), s) for s in range(REPEATS)])
        for kind in KINDS
    }
    path = machine.RESULTS / "samplers.json"
    path.write_text(json.dumps(summary(surface, best), indent=1) + "\n")
    from benchmarks.studies_page import write_page

    write_page()
    sys.stdout.write(f"written to {path.name} and the page\n")


def sampler(kind: str, seed: int) -> SamplerOf:
    """What a search would have drawn with."""
    config = {"kind": kind, "seed": seed, "startup_trials": STARTUP}
    return sampler_of(SamplerConfig.model_validate(config))


class Surface:
    """Params to a predicted score.

    Args:
        stored: recorded trials.
    """

    def __init__(self, stored: Mapping[str, Any]) -> None:
        params = [trial["params"] for trial in stored["trials"]]
        last = stored["setup"]["rungs"][-1]
        scores_K = np.array([curve_of(trial, OBJECTIVE)[last] for trial in stored["trials"]])
        self._columns = columns_of(params)
        self._trees = ExtraTreesRegressor(
            n_estimators=100, min_samples_leaf=2, bootstrap=True, oob_score=True, random_state=0
        ).fit(np.array([encode(one, self._columns) for one in params]), scores_K)
        error_K = self._trees.oob_prediction_ - scores_K
        self.trials = len(params)
        self.explained = float(self._trees.oob_score_)
        self.noise = float(np.sqrt(np.mean(error_K**2)))
        self.best_recorded = float(scores_K.max())
        self._known: dict[tuple[float, ...], float] = {}

    def score(self, params: Mapping[str, Any]) -> float:
        """What the surrogate predicts."""
        key = encode(params, self._columns)
        if key not in self._known:
            self._known[key] = float(self._trees.predict([list(key)])[0])
        return self._known[key]


def columns_of(params: Sequence[Mapping[str, Any]]) -> list[tuple[str, str | None]]:
    """The features: a number's own, and one for each label of a choice of texts."""
    columns: dict[tuple[str, str | None], None] = {}
    for one in params:
        for name, value in one.items():
            columns[(name, value if isinstance(value, str) else None)] = None
    return sorted(columns, key=str)


def encode(
    params: Mapping[str, Any], columns: Sequence[tuple[str, str | None]]
) -> tuple[float, ...]:
    """One configuration; a parameter that does not exist in it is -1, a rate its logarithm."""
    values = []
    for name, label in columns:
        value = params.get(name)
        if label is not None:
            values.append(float(value == label))
        elif value is None or isinstance(value, str):
            values.append(-1.0)
        else:
            values.append(float(np.log(value)) if name.endswith("lr") else float(value))
    return tuple(values)


def search(surface: Surface, space: Space, sampler_at: SamplerOf, seed: int) -> list[float]:
    """One search; the true score of what it would pick after each of `AT` trials."""
    study = optuna.create_study(direction="maximize")
    random = np.random.default_rng(seed)
    seen: list[tuple[float, float]] = []  # (noisy, true)
    for number in range(TRIALS):
        study.sampler = sampler_at(number)
        trial = study.ask()
        space.sample(trial)
        true = surface.score(trial.params)
        noisy = true + surface.noise * float(random.standard_normal())
        study.tell(trial, noisy)
        seen.append((noisy, true))
    return [max(seen[:count])[1] for count in AT]


def summary(surface: Surface, best: Mapping[str, Any]) -> dict[str, Any]:
    """The paired difference after each budget, with its bootstrap interval over repeats."""
    rows = []
    for place, count in enumerate(AT):
        random, tpe = (best[kind][:, place] for kind in KINDS)
        rows.append(
            {
                "trials": count,
                "random": float(random.mean()),
                "tpe": float(tpe.mean()),
                "gain": bootstrap(tpe - random),
            }
        )
    return {
        "recorded": surface.trials,
        "explained": surface.explained,
        "noise": surface.noise,
        "best_recorded": surface.best_recorded,
        "objective": OBJECTIVE,
        "repeats": REPEATS,
        "startup_trials": STARTUP,
        "rows": rows,
    }


def bootstrap(differences: Any) -> dict[str, float]:
    """The mean over repeats and its interval."""
    random = np.random.default_rng(0)
    picks = random.integers(len(differences), size=(4000, len(differences)))
    means = differences[picks].mean(1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"mean": float(np.mean(differences)), "low": float(low), "high": float(high)}


if __name__ == "__main__":
    main()
