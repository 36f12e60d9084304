"""A person's own rows: the newcomer's path, and a whole search over them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient

from orchestrator.config import SearchConfig
from orchestrator.results import SearchResult
from tests.integration.small_search import ROOT, Left, scratch_folder, small_config
from tests.integration.test_cli import Shell

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # Ray's and MLflow's own
]
EXAMPLE = ROOT / "examples" / "records"


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    with scratch_folder() as scratch:
        found = Shell(tmp_path, scratch)
        del found.environment["OMP_NUM_THREADS"]  # as a newcomer's machine has it
        yield found


@pytest.mark.timeout(240)
def test_a_newcomer_s_path(shell: Shell) -> None:
    """200 lines of a made-up task, to latents that solve it, in under four minutes."""
    shutil.copytree(EXAMPLE, shell.folder / "mine")
    search, rows = shell.folder / "mine" / "search.yaml", shell.folder / "mine/secret_rule.jsonl"
    written = [line for line in search.read_text().splitlines() if line.partition("#")[0].strip()]
    assert len(written) <= 8
    assert len(rows.read_text().splitlines()) == 200

    code, out, err = shell("run", str(search))
    assert code == 0, err
    assert "Candidate: secret-rule-" in out
    assert "of them with a prompt that train has too: val_id 0 (0 whole rows), test_id 0" in err
    assert 'latentune generate ./secret-rule "' in out
    code, _, err = shell("pull", "secret-rule", "--to", "pulled")
    assert code == 0, err
    code, out, err = shell("generate", "pulled", "44#47=", "--max-new-tokens", "4")
    assert code == 0, err
    assert out.replace(" ", "").startswith("44#47=")

    code, out, err = shell("evaluate", "pulled", str(rows), "--to", "out", "--baseline", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["rows"] == 200
    assert found["metrics"]["exact_match"] > 0.5 > found["baseline"]["exact_match"]
    items = pq.read_table(shell.folder / "out" / "predictions.parquet").to_pylist()
    assert [item["row"] for item in items] == list(range(1, 201))
    assert sum(item["answer"] == item["reference"] for item in items) > 100


OWN = """
def near(*, answer, reference, prompt):
    return -abs(len(answer) - len(reference))
"""


def test_a_search_by_a_metric_of_one_s_own_from_run_to_refusal(
    shell: Shell, tiny_folder: Path
) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": f"{'1,' * (i % 9)}{i}=", "completion": str(i)} for i in range(80)
    ]
    rows += [{"prompt": "1" * 60, "completion": "1"}] * 2
    data = shell.folder / "data.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    (shell.folder / "own.py").write_text(OWN)
    fields: dict[str, Any] = {
        "task": {
            "kind": "records",
            "train": "data.jsonl",
            "ood": {"by": "prompt_chars", "above": 12},
            "split": {"val": 0.2, "test": 0.2},
            "metrics": ["normalised_match", "own:near"],
        },
        "data": {"max_tokens": 40, "long_rows": "drop"},
        "objective": "val_id/near",
    }
    stopping = {"min_steps": 2, "factor": 3, "metric": "val_id/nll"}
    file = shell.file(small_config(tiny_folder, stopping=stopping, **fields))
    code, out, err = shell("run", file)
    assert code == 0, err
    assert "dropped as too long: " in err
    assert "val_id/near" in out
    config = SearchConfig.model_validate(
        small_config(tiny_folder, stopping=stopping, **fields), context={"folder": shell.folder}
    )
    left = Left(shell.home, config)
    left.check_whole(trials=3)
    for event in left.events("trial_report"):
        names = set(event.payload["metrics"])
        assert {"val_id/near", "val_id/normalised_match", "val_id/nll", "val_ood/near/1"} <= names
    (started,) = left.events("search_started")
    assert sum(started.payload["data"]["dropped"].values()) == 2
    assert set(started.payload["data"]["overlap"]) == {"val_id", "val_ood", "test_id", "test_ood"}
    _shows_in_mlflow(left)
    status = SearchResult.model_validate_json(shell("status", "small", "--json")[1])
    assert status.data is not None
    assert status.data.dropped == started.payload["data"]["dropped"]
    best = max(t.metrics["val_id/near"] for t in status.trials if t.status == "complete")
    assert {t.uid: t.metrics["val_id/near"] for t in status.trials}[str(status.best)] == best

    written = left.folder.events.read_bytes()
    assert shell("run", file)[0] == 0
    assert left.folder.events.read_bytes() == written
    data.write_text(data.read_text() + '\n{"prompt": "1", "completion": "1"}')
    code, _, err = shell("run", file)
    assert code == 2
    assert f"task.train: {data} has changed (" in err


def _shows_in_mlflow(left: Left) -> None:
    client: MlflowClient = left.client
    experiment = client.get_experiment_by_name("small-experiment")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.direction = 'maximize'")
    assert len(runs) == 1
    assert "val_id" in json.loads(runs[0].data.tags["data.overlap"])
    assert "best/val_id/near" in runs[0].data.metrics
