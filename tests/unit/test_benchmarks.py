"""The benchmarks: their words, their arithmetic, and that those of the GPU run at all."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import fidelity, gpu, ladder, machine, memory, occupancy
from benchmarks.fidelity import kendall_tau
from benchmarks.finding import finding, number_of, short, verdict_of
from benchmarks.glue import FIRST_RUNG, LOADS, STEPS, TASK, Run, ratio_of, runs_in_turn, search_of
from benchmarks.occupancy import by_refill, continuous
from benchmarks.page import PAGE, page, stored
from benchmarks.page_rows import ROWS
from benchmarks.recorded import RUNGS, TRIALS, goes_on, last_steps, recorded_losses
from benchmarks.setting import Setting
from benchmarks.workload import chains
from orchestrator.config import SearchConfig
from orchestrator.stopping import Halving
from trainable.base_model.loading import BaseModel

MACHINE = {"processor": "a processor", "cores": 2, "torch": "2", "accelerator": "a GPU"}


def test_the_page_is_that_of_the_stored_runs() -> None:
    assert PAGE.read_text() == page(stored())


def test_a_page_says_what_has_not_been_measured() -> None:
    text = page({})
    assert text.count("not measured yet") == len(ROWS) + 1  # and the ladder
    assert "**No GPU figure exists yet.**" in text


def test_a_page_has_what_early_stopping_saves_and_costs() -> None:
    text = page(stored())
    row = stored()["stopping"]["rows"][0]
    regret = row["objectives"]["val_ood/exact_match"]["regret"]
    assert "[search_studies.md](search_studies.md)" in text
    assert f"**{100 * row['saved']['mean']:.0f} % of the steps are saved**" in text
    assert f"{regret['mean']:.3f} ({regret['low']:.3f} to {regret['high']:.3f}) of" in text


def test_a_page_says_what_was_missed_and_where() -> None:
    rows = [finding("64 trials", [2.0, 2.2, 2.1], 2.5), finding("1 trial", [1.0])]
    on_gpu = MACHINE | {"device": "cuda"}
    text = page(
        {
            "fusion": {"machine": MACHINE, "rows": rows},
            "fusion-1b-cuda": {"machine": on_gpu, "rows": [finding("64 trials", [5.0], 4.0)]},
        }
    )
    assert "| B1 | 64 trials | 2.10 (2.00 to 2.20) | at least 2.50 | **no** |" in text
    assert "| B1 | GPU: 64 trials | 5.00 | at least 4.00 | yes |" in text
    assert "| B1 | 1 trial" not in text
    assert "No GPU figure" not in text


def test_a_page_says_which_code_a_table_is_of() -> None:
    def text_of(**facts: object) -> str:
        rows = [finding("64 trials", [2.0])]
        return page({"fusion": {"machine": MACHINE | facts, "rows": rows}})

    assert "\n\nMeasured at commit 1a2b3c.\n" in text_of(commit="1a2b3c", dirty=False)
    assert "1a2b3c, with changes that are not in it." in text_of(commit="1a2b3c", dirty=True)
    assert "Measured at commit" not in text_of(commit=None, dirty=None)


def test_results_say_which_code_they_are_of(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    assert machine.commit(tmp_path) == {"commit": None, "dirty": None}
    git("init", "--quiet")
    for folder in ("trainable", "benchmarks/results"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "one.json").write_text("{}")
    git("add", "--all")
    git("commit", "--quiet", "--message", "one")
    head = git("rev-parse", "--short=10", "HEAD")
    assert machine.commit(tmp_path) == {"commit": head, "dirty": False}
    (tmp_path / "benchmarks/results/one.json").write_text("a run before this one")
    assert machine.commit(tmp_path) == {"commit": head, "dirty": False}
    (tmp_path / "trainable/new.py").touch()
    assert machine.commit(tmp_path) == {"commit": head, "dirty": True}


def test_a_page_reads_rows_that_have_keys_of_their_own() -> None:
    prefix = {
        "trials": 16, "batch_rows": 2, "tokens": 64, "first_site": 0.5, "ratio": 1.5,
        "ratio_min": 1.4, "ratio_max": 1.7, "within": False, "repeats": 5,
    }  # fmt: skip
    evaluation = {
        "device": "cpu", "trials": 8, "prompts": 16, "ratio": 2.0, "ratio_low": 1.0,
        "ratio_high": 3.0, "cpu_ratio": 3.5, "target": 3.0, "within": True, "repeats": 5,
    }  # fmt: skip
    text = page(
        {
            "prefix": {"machine": MACHINE, "rows": [prefix]},
            "evaluation": {"machine": MACHINE, "rows": [evaluation]},
        }
    )
    assert "first site at 50% | 1.50 (1.40 to 1.70) | at least 1.60 | **no** |" in text
    assert "| B6 | 8 trials, 16 prompts each, by CPU seconds | 3.50 | at least 3.00 | yes |" in text


def test_a_finding_is_a_median_with_its_range_and_verdict() -> None:
    found = finding("peak", [1.2, 1.0, 1.04], 1.05, "at most")
    assert (number_of(found), verdict_of(found)) == ("1.04 (1.00 to 1.20)", "at most 1.05: met")
    assert not finding("peak", [1.06], 1.05, "at most")["met"]
    assert not finding("share", [0.94], 0.95)["met"]
    assert finding("share", [0.94])["met"] is None


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.0576, "0.0576"), (2.625, "2.62"), (31.44, "31.4"), (1e-6, "1e-06")],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert short(value) == text


def test_kendalls_tau_is_scipys() -> None:
    from scipy.stats import kendalltau

    one, other = [3.0, 1.0, 2.0, 5.0, 4.0], [2.5, 1.0, 2.6, 4.0, 5.0]
    assert kendall_tau(one, other) == pytest.approx(kendalltau(one, other).statistic)
    assert kendall_tau(one, one) == 1


def test_a_free_place_is_taken_at_once_or_when_all_are() -> None:
    ends = [1, 3, 2, 1]
    assert list(continuous(ends, 2)) == [{0: 0, 1: 0}, {1: 1, 2: 0}, {1: 2, 2: 1}, {3: 0}]
    assert list(by_refill(ends, 2)) == [
        {0: 0, 1: 0}, {1: 1}, {1: 2}, {2: 0, 3: 0}, {2: 1},
    ]  # fmt: skip


def test_early_stopping_is_that_of_the_recorded_losses() -> None:
    best_last = [[3.0, 3.0, 3.0], [2.0, 2.0, 2.0], [2.5, 1.0, 1.0]]
    assert last_steps(best_last) == [RUNGS[2], RUNGS[2], RUNGS[0]]
    assert len(recorded_losses()) == TRIALS


@pytest.mark.parametrize(
    "row", ["fidelity", "fusion", "prefix", "occupancy", "evaluation", "limit"]
)
def test_a_gpu_row_runs_on_a_cpu_at_the_tiniest_size(
    row: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)  # the other tests' process
    monkeypatch.setattr(machine, "RESULTS", tmp_path / "benchmarks" / "results")
    machine.RESULTS.mkdir(parents=True)
    gpu.main([row, "--device", "cpu", "--shape", "tiny", "--quick"])
    rows = json.loads((machine.RESULTS / f"{row}-quick.json").read_text())["rows"]
    assert rows and all(row["ratio"] >= 0 for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("row", ["memory", "processes"])
def test_a_gpu_row_of_many_processes_runs_on_a_cpu(row: str) -> None:
    gpu.main([row, "--device", "cpu", "--shape", "tiny", "--quick"])


def test_a_row_that_is_not_there_is_refused() -> None:
    with pytest.raises(SystemExit, match="rows: fidelity"):
        gpu.main(["fission"])


@pytest.mark.parametrize(("batch_rows", "_"), LOADS)
def test_the_search_that_stands_against_a_glued_one_is_legal(batch_rows: int, _: float) -> None:
    config = SearchConfig.model_validate(search_of(batch_rows, 32))
    assert len(config.grid()) == config.budget.trials == 32
    assert config.rungs() == [FIRST_RUNG, STEPS]
    assert not config.confirm.enabled


def test_arms_of_whole_commands_run_in_turn() -> None:
    said: list[str] = []

    def side(name: str) -> Run:
        said.append(name)
        return Run(len(said), 120)

    runs = runs_in_turn([lambda: side("one"), lambda: side("two"), lambda: side("ours")], 3)
    assert " ".join(said) == "one two ours ours two one one two ours"
    assert [run.seconds for run in runs[0]] == [1, 6, 7]


def test_a_glued_arm_counts_at_its_better_number_at_a_time() -> None:
    glued = {
        1: [Run(9, 320), Run(9, 320), Run(30, 320)],
        2: [Run(6, 320), Run(8, 240), Run(9, 320)],
    }
    found = ratio_of("32 trials", 2.0, glued, [Run(3, 280), Run(2, 280), Run(9, 280)])
    assert (found["ratio"], found["low"], found["high"], found["met"]) == (2, 1, 4, True)
    assert "2 at a time" in found["case"] and "median of 3" in found["case"]
    assert "240 to 320 trial-steps by hand, 280 ours" in found["case"]


def test_the_glued_arm_stops_by_the_rule_of_the_search() -> None:
    rule = Halving(FIRST_RUNG, 3)
    losses = np.random.default_rng(0).permutation(24).astype(float).tolist()
    for place, loss in enumerate(losses):
        stops = rule.stops(place, {FIRST_RUNG: -loss})
        assert stops != goes_on(loss, losses[: place + 1])


@pytest.mark.filterwarnings("ignore")  # PEFT's own
def test_trials_of_a_glued_process_load_the_model_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial after another one ends where it ends in a process of its own."""
    glued_trial = pytest.importorskip("benchmarks.glued_trial", exc_type=ImportError)
    loads: list[Setting] = []
    load = Setting.base

    def counted(setting: Setting) -> BaseModel:
        loads.append(setting)
        return load(setting)

    monkeypatch.setattr(Setting, "base", counted)

    def loss_of(kind: dict[str, object]) -> float:
        config = {
            "triggers": {"one": kind}, "lr": 0.01, "seed": 0, "task": TASK, "batch_rows": 1,
            "budget_steps": 2,
        }  # fmt: skip
        trial = glued_trial.GluedTrial(config)
        trial.train(1)
        return float(trial.evaluate())

    kinds = [{"kind": "every", "k": 8, "m": 2, "readout": "latent"}, {"kind": "start", "m": 4}]
    glued_trial.loaded.cache_clear()
    together = [loss_of(kind) for kind in kinds]
    assert len(loads) == 1
    glued_trial.loaded.cache_clear()
    assert loss_of(kinds[1]) == together[1]


def test_the_target_of_occupancy_is_on_seconds() -> None:
    rows = occupancy.measure(Setting(shape="tiny", quick=True))
    slots, seconds = rows[1:]
    assert (slots["target"], seconds["target"]) == (None, 2.0)
    assert "in slots" in slots["case"] and "in seconds" in seconds["case"]
    assert seconds["profile"]["a step of 1 trial, of one of 8"] > 0


def test_fidelity_is_of_each_way_of_computing(monkeypatch: pytest.MonkeyPatch) -> None:
    ways = (*fidelity.OTHERS, fidelity.DEFAULT)
    assert {way.batch_rows for way in ways} == {1, 2, 16}
    assert {way.engine.get("share_prefixes", "auto") for way in ways} == {"auto", "on", "off"}
    base = Setting(shape="tiny").base()
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert fidelity.optional_ways(base) == [fidelity.BFLOAT16]
    monkeypatch.setenv("CXX", sys.executable)
    assert fidelity.optional_ways(base) == [fidelity.BFLOAT16, fidelity.COMPILED]
    data = chains(base, val_rows=4)
    small = replace(fidelity.BFLOAT16, trials=2, steps=1)
    curves, ranking, gradients = fidelity.checked(base, data, small)
    assert all("bfloat16" in found["case"] for found in (curves, ranking, gradients))
    assert gradients["met"]


def test_the_ladder_has_bfloat16_and_checkpointing() -> None:
    setting = Setting(shape="tiny", quick=True)
    base = setting.base()
    options: dict[str, dict[str, object]] = {
        "bfloat16 products": {"precision": "bfloat16"},
        "activation checkpointing": {"checkpoint_activations": True},
    }
    for lever, chosen in options.items():
        found = ladder.stepping(base, setting, lever, **chosen)
        assert found["lever"] == lever in found["case"] and found["ratio"] > 0


def test_memory_is_measured_behind_a_shared_prefix() -> None:
    """Four trials read one row up to its late site: 48 slots once, and 20 each."""
    slots = {}
    for kind in ("late", "late, nothing shared"):
        engine = memory.working(Setting(shape="tiny", quick=True), 4, *memory.WORK[kind])
        engine.step()
        slots[kind] = engine.slots.useful
    assert slots == {"late": 48 + 4 * 20, "late, nothing shared": 4 * 68}


def test_noise_is_that_of_two_layouts_also_where_lanes_cut_rows_apart() -> None:
    base = Setting(shape="tiny").base()
    way = replace(fidelity.DEFAULT, trials=2, steps=4, engine={"lanes": 2})
    curves = fidelity.checked(base, chains(base, val_rows=4), way)[0]
    assert curves["alone_to_alone"] > 0
