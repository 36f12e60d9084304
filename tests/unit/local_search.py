"""A whole search without Ray: the conductor and an engine's loop in this process."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

from orchestrator.assignment import TrialReport
from orchestrator.checkpoints import save_state
from orchestrator.conductor import Conductor, EngineInfo, Quiet
from orchestrator.config import SearchConfig
from orchestrator.events import EventLog, read_events
from orchestrator.files import write_atomic
from orchestrator.folders import SearchFolder
from orchestrator.opening import open_ledger
from orchestrator.reproduction import describe_search
from orchestrator.search_data import read_data
from tests.unit.ledgers import empty_study
from trainable.base_model.loading import BaseModel
from trainable.data import SEARCH_SPLITS
from trainable.engine import Engine, TrialSpec
from trainable.tasks import build_task
from trainable.trial import TrialConfig

NAME = "local"
SEARCH: dict[str, Any] = {
    "name": NAME,
    "task": {
        "kind": "generation",
        "train_lengths": [1, 2],
        "val_ood_lengths": [3],
        "test_ood_lengths": [4],
        "train_rows": 16,
        "val_rows": 4,
        "test_rows": 2,
    },
    "space": {
        "axes": {
            "strategy": {
                "name": "strategy.arm",
                "one_of": {
                    "start": {"triggers": {"s": {"kind": "start", "m": 2}}},
                    "comma": {"triggers": {"c": {"kind": "delimiter", "m": 2}}},
                    "every": {"triggers": {"e": {"kind": "every", "k": 4}}},
                },
            },
            "optim": {"batch_rows": 2, "warmup_steps": 2},
        },
        "baselines": False,
    },
    "sampler": {"kind": "grid"},
    "budget": {"trials": 3, "steps": 8},
    "stopping": {"min_steps": 4, "factor": 2, "metric": "val_ood/nll"},
}


def local_config(base_model: Path, **changed: Any) -> SearchConfig:
    base = {"path": str(base_model), "device": "cpu"}
    return SearchConfig.model_validate(SEARCH | {"base_model": base} | changed)


def search_locally(config: SearchConfig, home: Path, base: BaseModel) -> SearchFolder:
    """Run all trials of a search together, rung by rung."""
    folder = SearchFolder.of(home, config.name)
    folder.path.mkdir(parents=True)
    folder.study.write_bytes(empty_study())
    write_atomic(folder.config, config.to_yaml().encode())
    data = read_data(config, home)
    write_atomic(folder.data, data.record.model_dump_json().encode())
    engine = Engine(base, deterministic=config.engine.deterministic)
    task = build_task(data.source.task, data.source.seed, tokenizer=base.tokenizer)
    encoded = engine.encode(task)
    ledger = open_ledger(config, folder)
    with EventLog(folder.events) as events, closing(ledger):
        payload = {
            "search": config.name,
            "config": config.model_dump(mode="json"),
            "base_model": base.describe(),
        }
        events.append("search_started", payload)
        conductor = Conductor(
            config,
            folder,
            ledger,
            events,
            EngineInfo("e", base.describe()),
            data.source,
            Quiet(),
        )
        given = {}
        while (assignment := conductor.assign()) is not None:
            given[assignment.uid] = assignment
            spec = TrialSpec(
                assignment.uid,
                TrialConfig.from_dict(assignment.config),
                config.budget.steps,
                data.source.seed,
            )
            engine.join(spec, encoded)
        for step in range(1, config.budget.steps + 1):
            losses = engine.step()
            if step not in config.rungs():
                continue
            splits = [split for split in SEARCH_SPLITS if split in encoded.splits]
            scores = engine.evaluate(engine.trials(), splits)
            for uid, metrics in scores.items():
                one = given[uid]
                save_state(Path(one.folder), step, engine.state(uid).to_bytes())
                points = [(step, losses[uid])] if uid in losses else []
                told = TrialReport(uid, one.number, one.attempt, step, metrics, points)
                if not conductor.on_report(told):
                    engine.leave(uid)
    found = describe_search(read_events(folder.events), data.digests, threads=1)
    write_atomic(folder.reproduction, found.model_dump_json().encode())
    return folder
