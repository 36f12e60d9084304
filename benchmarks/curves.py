"""Full learning curves of drawn configurations, recorded once: what the replays run on.

    python -m benchmarks.curves     # 96 trials of 270 steps; about 10 minutes on two quiet cores

The demo's space on short chains of Generation. Each trial runs to its end and is scored at each
rung on the validation rows, as a search would, and once at its end on 500 other rows, item by
item. Written to `results/curves.json` after each group of trials: an interrupted run goes on.
`benchmarks.stopping` and `benchmarks.samplers` replay it in seconds.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks import machine
from trainable.trial import TrialConfig

if TYPE_CHECKING:  # what only replays needs no torch
    from trainable.data import EncodedTask
    from trainable.engine import Engine

FILE = machine.RESULTS / "curves.json"
SPACE, TRIALS, FUSED = "quick", 96, 16
RUNGS = (15, 30, 45, 90, 135, 270)  # rungs of factor 3 from 15, 30 or 45
BATCH_ROWS = 4  # half of the space's own, so that a recording takes minutes
TASK: dict[str, Any] = {
    "kind": "generation",
    "train_lengths": [3, 6],
    "val_ood_lengths": [8, 12],
    "test_ood_lengths": [8, 12],
    "val_rows": 32,
    "test_rows": 250,
}
KEPT = ("val_ood/exact_match", "val_ood/equation_accuracy", "cost/extra_tokens_pct")
DIGITS = "0123456789abcdef"


def main() -> None:
    """Record what is not there yet."""
    from trainable.base_model.loading import load_base
    from trainable.data import EncodedTask
    from trainable.engine import Engine
    from trainable.tasks import build_task

    found = machine.facts()
    stored = json.loads(FILE.read_text()) if FILE.exists() else {}
    base = load_base("bundled")
    setup = {"base_model": base.describe()["fingerprint"], "space": SPACE, "task": TASK}
    setup |= {"batch_rows": BATCH_ROWS, "rungs": list(RUNGS)}
    if stored.get("setup") != setup:
        stored = {"machine": found, "setup": setup, "trials": []}
    drawn = draw(TRIALS)
    engine = Engine(base)
    data = EncodedTask(build_task(TASK, seed=0), base.tokenizer)
    while len(stored["trials"]) < TRIALS:
        done, began = len(stored["trials"]), time.perf_counter()
        stored["trials"] += record(engine, data, drawn[done : done + FUSED], done)
        FILE.write_text(as_text(stored))
        seconds = time.perf_counter() - began
        sys.stdout.write(f"{len(stored['trials'])} of {TRIALS} trials, {seconds:.0f} s\n")
        sys.stdout.flush()


def draw(trials: int) -> list[dict[str, Any]]:
    """Random configurations of the space, each with its `params` and `config`."""
    import optuna

    from search_spaces import PRESETS

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    space, drawn = PRESETS[SPACE](), []
    for number in range(trials):
        trial = study.ask()
        config = space.sample(trial)
        config["optim"] = config["optim"] | {"batch_rows": BATCH_ROWS}
        drawn.append({"params": trial.params, "config": config | {"seed": number}})
    return drawn


def record(
    engine: Engine, data: EncodedTask, drawn: Sequence[Mapping[str, Any]], first: int
) -> list[dict[str, Any]]:
    """Train a group of trials together, to the end."""
    from trainable.engine import TrialSpec

    uids = [f"curve-{first + place}" for place in range(len(drawn))]
    configs = [TrialConfig.from_dict(one["config"]) for one in drawn]
    for uid, config in zip(uids, configs, strict=True):
        engine.join(TrialSpec(uid, config, RUNGS[-1]), data)
    curves: dict[str, list[dict[str, Any]]] = {uid: [] for uid in uids}
    for step in range(1, RUNGS[-1] + 1):
        engine.step()
        if step in RUNGS:
            for uid, metrics in engine.evaluate(uids, ["val_ood"]).items():
                kept = {name: round(metrics[name], 5) for name in KEPT}
                curves[uid].append({"step": step, "metrics": kept})
    records = []
    for uid, config, one in zip(uids, configs, drawn, strict=True):
        name = config.strategy.short_name
        items = right_equations(engine, data, config, uid)
        records.append({"strategy": name, **one, "curve": curves[uid], "test_ood": items})
        engine.leave(uid)
    return records


def right_equations(engine: Engine, data: EncodedTask, config: TrialConfig, uid: str) -> str:
    """How many equations of each row of test_ood are right: one digit per row, to base 16."""
    import torch

    from trainable.batch import prepare

    engine.raise_failure(uid)
    rows, rules = data.rows("test_ood"), engine.resolve(config.strategy)
    latents = torch.from_numpy(engine.state(uid).latents).to(engine.base.model.device)
    places = {id(row): place for place, row in enumerate(rows)}
    prepared = [prepare(0, row, rules) for row in rows]
    counts = [0] * len(rows)
    for one, right_N, _ in engine.forced_scores(prepared, [latents]):
        accuracy = data.score(one.row, right_N)["equation_accuracy"]
        counts[places[id(one.row)]] = round(accuracy * one.row.distance)
    return "".join(DIGITS[count] for count in counts)


def as_text(stored: Mapping[str, Any]) -> str:
    """JSON with one line per trial: a file that can be compared."""
    head = {name: value for name, value in stored.items() if name != "trials"}
    lines = ",\n".join(" " + json.dumps(trial) for trial in stored["trials"])
    return json.dumps(head)[:-1] + ', "trials": [\n' + lines + "\n]}\n"


if __name__ == "__main__":
    main()
