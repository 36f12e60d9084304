"""A whole search on a real Ray: to the end, twice, interrupted, and with processes killed."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest

from orchestrator.config import SearchConfig
from orchestrator.driver import run
from orchestrator.ledger import storage_url
from tests.integration.small_search import (
    EXPERIMENT,
    NAME,
    ROOT,
    Interrupt,
    Left,
    Watching,
    environment,
    kill_own,
    scratch_folder,
    small_config,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # Ray's and MLflow's own
    pytest.mark.usefixtures("ray_session"),
]


@pytest.fixture
def config(tiny_folder: Path) -> SearchConfig:
    return SearchConfig.model_validate(small_config(tiny_folder))


GENERATE = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
from orchestrator import pull
base, home, to = sys.argv[1:]
model, tokenizer = (k.from_pretrained(base) for k in (AutoModelForCausalLM, AutoTokenizer))
latents = pull("small", home=home, to=to)
lm = latents.attach(model, tokenizer)
ids = lm.generate(**tokenizer("44@47=", return_tensors="pt"), max_new_tokens=8)
print(tokenizer.decode(ids[0], skip_special_tokens=True))
"""


def test_the_whole_path_and_again(config: SearchConfig, tmp_path: Path) -> None:
    watching = Watching()
    result = run(config, home=tmp_path, watcher=watching)
    left = Left(tmp_path, config)
    assert result.state == "complete"
    assert len(result.trials) == 3
    left.check_whole(trials=3)
    assert {number for number, _, _ in watching.reports} == {0, 1, 2}
    assert result.best is not None
    assert result.artifact is not None
    assert result.time is not None
    assert 0 < result.time.trial_steps <= 18
    assert [e.trial_uid for e in left.events("candidate")] == [result.best]
    complete = [trial for trial in result.trials if trial.status == "complete"]
    assert left.versions() == len(complete)
    for event in left.events("trial_report"):
        assert [step for step, _ in event.payload["curve"]]
        assert {"val_ood/exact_match", "val_ood/exact_match/3", "train/loss"} <= set(
            event.payload["metrics"]
        )
    assert not list(left.folder.path.glob("tune-*"))  # Tune's own files are gone

    _generates_in_a_fresh_process(config, tmp_path)
    _shows_in_the_dashboard(left)

    written = left.folder.events.read_bytes()
    again = run(config, home=tmp_path)
    assert again.model_dump(exclude={"time", "estimate"}) == result.model_dump(
        exclude={"time", "estimate"}
    )
    assert left.folder.events.read_bytes() == written
    left.check_whole(trials=3)
    assert left.versions() == len(complete)


def _generates_in_a_fresh_process(config: SearchConfig, home: Path) -> None:
    arguments = [config.base_model.path, str(home), str(home / "pulled-here")]
    done = subprocess.run(
        [sys.executable, "-c", GENERATE, *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.replace(" ", "").startswith("44@47=")
    assert sorted(path.name for path in (home / "pulled-here").iterdir()) == [
        "README.md",
        "latent_config.json",
        "latents.safetensors",
    ]


def _shows_in_the_dashboard(left: Left) -> None:
    from optuna_dashboard import wsgi  # type: ignore[import-untyped]

    status: list[str] = []
    request: dict[str, Any] = {"PATH_INFO": "/api/studies", "wsgi.errors": io.StringIO()}
    setup_testing_defaults(request)
    application = wsgi(storage_url(left.folder.path))
    body = b"".join(application(request, lambda code, *_: status.append(code)))
    assert status[0].startswith("200")
    assert [s["study_name"] for s in json.loads(body)["study_summaries"]] == [NAME]


@pytest.mark.slow
def test_an_interrupted_search_goes_on_to_exactly_its_trials(
    tiny_folder: Path, tmp_path: Path
) -> None:
    config = SearchConfig.model_validate(
        small_config(tiny_folder, budget={"trials": 5, "steps": 6})
    )
    interrupt = Interrupt()
    first = run(config, home=tmp_path, watcher=Watching(interrupt.press), interrupt=interrupt)
    assert first.state == "interrupted"
    left = Left(tmp_path, config)
    assert left.events("search_ended")[-1].payload["state"] == "interrupted"
    assert len(first.trials) < 5
    done_before = {t.number: t for t in first.trials if t.status != "running"}

    second = run(config, home=tmp_path)
    assert second.state == "complete"
    assert len(second.trials) == 5
    left.check_whole(trials=5)
    for trial in second.trials:
        if trial.number in done_before:
            assert trial == done_before[trial.number]


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize("title", ["ray::ThinTrial", "ray::EngineActor"])
def test_a_killed_process_costs_no_trial(tiny_folder: Path, tmp_path: Path, title: str) -> None:
    config = SearchConfig.model_validate(
        small_config(tiny_folder, stopping={"kind": "asha", "min_steps": 2, "factor": 2})
    )
    killed: list[int] = []
    result = run(config, home=tmp_path, watcher=Watching(lambda _: killed.append(kill_own(title))))
    assert killed
    assert killed[0] >= 1
    assert result.state == "complete"
    assert [(t.status, t.reason) for t in result.trials if t.status == "failed"] == []
    left = Left(tmp_path, config)
    left.check_whole(trials=3)
    _no_step_is_lost_or_repeated(left)


def _no_step_is_lost_or_repeated(left: Left) -> None:
    """Each curve begins where the last report ended, whatever was killed in between."""
    reached: dict[str | None, int] = {}
    for event in left.events("trial_report"):
        before = reached.get(event.trial_uid, 0)
        curve = [step for step, _ in event.payload["curve"]]
        if curve:  # a rung reported again has none
            assert curve == list(range(before + 1, event.payload["step"] + 1))
        reached[event.trial_uid] = event.payload["step"]


DIE = """
import os, sys
from orchestrator import cli, driver, search_end
from orchestrator.config import load_search
search_end.SearchEnd.finish = lambda *_, **__: os._exit(9)  # after the last trial was told
driver.run(load_search(sys.argv[1]), home=sys.argv[2])
"""


@pytest.mark.slow
@pytest.mark.faults
def test_a_driver_that_died_at_the_very_end_left_the_rest_to_the_next(
    config: SearchConfig, tmp_path: Path
) -> None:
    file = tmp_path / "search.yaml"
    file.write_text(config.to_yaml())
    home = tmp_path / "home"
    with scratch_folder() as scratch:
        died = subprocess.run(
            [sys.executable, "-c", DIE, str(file), str(home)],
            cwd=ROOT, env={**os.environ, **environment(scratch)},
            capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
    assert died.returncode == 9, died.stderr
    result = run(config, home=home)
    assert result.state == "complete"
    left = Left(home, config)
    left.check_whole(trials=3)
    assert left.versions() == result.counts.get("complete", 0)


@pytest.mark.slow
def test_a_search_ends_with_its_report_in_mlflow(tiny_folder: Path, tmp_path: Path) -> None:
    told = {"experiment": EXPERIMENT, "report": True}
    config = SearchConfig.model_validate(small_config(tiny_folder, tracking=told))
    result = run(config, home=tmp_path)
    left = Left(tmp_path, config)
    (event,) = left.events("report")
    assert event.seq < left.events("search_ended")[-1].seq
    assert result.best is not None and result.best in event.payload["note"]
    page = (left.folder.path / "report" / "report.html").read_text()
    assert "data:image/png" in page  # the winner's attention: the model is small
    experiment = left.client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    query = f"tags.search = '{config.name}'"
    (parent,) = left.client.search_runs([experiment.experiment_id], query)
    assert parent.data.tags["mlflow.note.content"] == event.payload["note"]
    files = [file.path for file in left.client.list_artifacts(parent.info.run_id, "report")]
    assert files == ["report/report.html", "report/report.md"]
