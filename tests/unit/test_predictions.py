"""Scoring latents on a person's data: one row per item, and what a whole file comes to."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console

from orchestrator.errors import TargetExistsError
from orchestrator.usage import (
    DataEvaluation,
    evaluate_data,
    evaluate_folder,
    generate_text,
    print_data_evaluation,
    print_evaluation,
)
from tests.decoding_reference import artifact_of, attached
from trainable.answers import free_answers
from trainable.artifact import Artifact
from trainable.base_model.loading import BaseModel
from trainable.batch import labelled_logits, prepare
from trainable.data import Example, encode
from trainable.decoding import LatentLM
from trainable.errors import BadRowsError, ContextError, TaskError
from trainable.predictions import without_latents
from trainable.special_ids import special_ids
from trainable.strategy import InsertionStrategy

STRATEGY = InsertionStrategy.from_dict(
    {
        "triggers": {"s": {"kind": "start", "m": 2}, "c": {"kind": "delimiter", "m": 1}},
        "specialization": "by_trigger",
    }
)
OWN = "def size(*, answer, reference, prompt):\n    return len(answer)\n"


@pytest.fixture(scope="module")
def lm(tiny_base: BaseModel) -> LatentLM:
    return attached(tiny_base, STRATEGY)


@pytest.fixture
def folder(tiny_base: BaseModel, tmp_path: Path) -> Path:
    artifact_of(tiny_base, STRATEGY).save(tmp_path / "pulled")
    return tmp_path / "pulled"


def greedy(lm: LatentLM, prompt: str, tokens: int) -> str:
    """What the model writes by itself, one prompt at a time."""
    ids = lm.tokenizer(prompt, return_tensors="pt")["input_ids"]
    out = lm.generate(ids, max_new_tokens=tokens, do_sample=False)[0, ids.shape[1] :]
    return str(lm.tokenizer.decode(out, skip_special_tokens=True))


@pytest.fixture
def data(lm: LatentLM, tmp_path: Path) -> Path:
    """Rows of unequal length; each has an id, and two distances."""
    rows: list[dict[str, Any]] = [
        {"id": f"i{n}", "prompt": f"{'a,' * n}{n}=", "completion": "1" * (n + 1), "distance": n % 2}
        for n in range(5)
    ]
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def rows_of(data: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.read_text().splitlines()]


def test_one_row_per_item(
    lm: LatentLM, tiny_base: BaseModel, folder: Path, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "own.py").write_text(OWN)
    metric = f"{tmp_path}/own.py:size"
    out = tmp_path / "deep" / "out"
    found = evaluate_data(folder, data, to=out, metrics=[metric], rows_at_once=2, baseline=True)
    assert sorted(path.name for path in out.iterdir()) == ["predictions.parquet"]
    table = pq.read_table(out / "predictions.parquet")
    scores = ["exact_match", "token_accuracy", "nll", "normalised_match", "size"]
    assert table.column_names == [
        "row", "id", "distance", "prompt", "reference", "answer", *scores,
        "response_tokens", "latents", "tokens", "base_answer", *(f"base_{s}" for s in scores),
    ]  # fmt: skip
    limit = 5 + 1 + 16  # the longest reference, its EOS, and the margin
    assert found.max_new_tokens == limit
    bare = without_latents(lm)
    latents = torch.from_numpy(artifact_of(tiny_base, STRATEGY).latents)
    for number, (item, row) in enumerate(zip(table.to_pylist(), rows_of(data), strict=True)):
        assert item["row"] == number + 1
        assert (item["id"], item["distance"]) == (row["id"], row["distance"])
        assert (item["prompt"], item["reference"]) == (row["prompt"], row["completion"])
        assert item["answer"] == greedy(lm, row["prompt"], limit)
        assert item["base_answer"] == greedy(bare, row["prompt"], limit)
        assert item["size"] == len(item["answer"])
        encoded = prepare(
            0, encode(Example(row["prompt"], row["completion"]), lm.tokenizer), lm.rules
        )
        logits, labels, _ = labelled_logits(tiny_base.model, [encoded], [latents])
        nll = torch.nn.functional.cross_entropy(logits, labels)
        assert item["nll"] == pytest.approx(float(nll), rel=1e-4)
        assert item["token_accuracy"] == pytest.approx(
            float((logits.argmax(-1) == labels).float().mean())
        )
        assert item["latents"] == 2 + number
        assert item["response_tokens"] == number + 2
    answers = {(item["answer"], item["base_answer"]) for item in table.to_pylist()}
    assert any(own != base for own, base in answers)
    assert found.extra_tokens_pct == pytest.approx(
        100 * (5 * 2 + 10) / sum(1 + len(r["prompt"] + r["completion"]) + 1 for r in rows_of(data))
    )


def test_means_are_over_items_and_over_those_of_a_distance(
    folder: Path, data: Path, tmp_path: Path
) -> None:
    found = evaluate_data(folder, data, to=tmp_path)
    table = pq.read_table(tmp_path / "predictions.parquet").to_pandas()
    assert found.metrics["nll"] == pytest.approx(table["nll"].mean())
    assert found.metrics["nll/1"] == pytest.approx(table[table["distance"] == 1]["nll"].mean())
    assert found.baseline is None
    assert DataEvaluation.model_validate_json(found.model_dump_json()) == found


def test_an_answer_that_is_the_reference_matches_exactly(
    lm: LatentLM, folder: Path, tmp_path: Path
) -> None:
    """Its end counts: the model ends where the reference does."""
    tokenizer = lm.tokenizer
    prompts = [str(number) for number in range(300)]
    rows = [encode(Example(prompt, "x"), tokenizer) for prompt in prompts]
    specials = special_ids(tokenizer)
    ended = [
        (prompt, str(tokenizer.decode(ids[:-1])))
        for prompt, ids in zip(prompts, free_answers(lm, rows, 12, 300), strict=True)
        if len(ids) > 2 and ids[-1] == tokenizer.eos_token_id and not specials & set(ids[:-1])
    ]
    assert ended, "no answer of the random model ends: take another seed"
    prompt, answer = ended[0]
    pairs = [(prompt, answer), (prompt, answer[:-1]), (prompt, answer + ".")]
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": p, "completion": c}) for p, c in pairs))
    found = evaluate_data(folder, path, to=tmp_path, max_new_tokens=30)
    table = pq.read_table(tmp_path / "predictions.parquet").to_pydict()
    assert table["exact_match"] == [1.0, 0.0, 0.0]
    assert table["answer"] == [answer] * 3
    assert found.metrics["exact_match"] == pytest.approx(1 / 3)
    cut = evaluate_data(folder, path, to=tmp_path, max_new_tokens=len(answer), overwrite=True)
    assert cut.metrics["exact_match"] == 0.0  # cut off before its end


def test_an_earlier_file_is_replaced_only_by_a_whole_one(
    folder: Path, data: Path, tmp_path: Path
) -> None:
    evaluate_data(folder, data, to=tmp_path)
    before = (tmp_path / "predictions.parquet").read_bytes()
    (tmp_path / "own.py").write_text("def f(*, answer, reference, prompt):\n    return 1 / 0\n")
    with pytest.raises(TaskError, match=r"f raised ZeroDivisionError: .* at .*data\.jsonl row 1"):
        own = [f"{tmp_path}/own.py:f"]
        evaluate_data(folder, data, to=tmp_path, metrics=own, overwrite=True)
    data.write_text(data.read_text() + '\n{"prompt": "1"}')
    with pytest.raises(BadRowsError, match="row 6: the column completion is missing"):
        evaluate_data(folder, data, to=tmp_path, overwrite=True)
    with pytest.raises(
        TargetExistsError, match=r"predictions\.parquet is there already: .*--overwrite"
    ):
        evaluate_data(folder, data, to=tmp_path)
    assert (tmp_path / "predictions.parquet").read_bytes() == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("name", ["answer", "latents", "base_nll"])
def test_a_metric_may_not_be_called_like_a_column(
    folder: Path, data: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "own.py").write_text(OWN.replace("size", name))
    with pytest.raises(TaskError, match=f"metric {name} has the name of another column"):
        evaluate_data(folder, data, to=tmp_path, metrics=[f"{tmp_path}/own.py:{name}"])


def test_without_latents_it_is_the_frozen_model(lm: LatentLM, tiny_base: BaseModel) -> None:
    ids = lm.tokenizer("44@47=", return_tensors="pt")["input_ids"]
    model: Any = tiny_base.model
    own = model.generate(ids, max_new_tokens=12, do_sample=False)
    assert torch.equal(without_latents(lm).generate(ids, max_new_tokens=12, do_sample=False), own)


def test_what_is_odd_about_the_data_is_said(
    folder: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data.write_text('{"prompt": "1", "completion": "2", "source": "web"}')
    evaluate_data(folder, data, to=tmp_path)
    assert f"{data}: the columns source are not read" in caplog.text


def test_scores_as_a_table(folder: Path, data: Path, tmp_path: Path) -> None:
    text = io.StringIO()
    found = evaluate_data(folder, data, to=tmp_path, baseline=True)
    print_data_evaluation(Console(file=text, width=100), found)
    assert "frozen model alone" in text.getvalue()
    assert "start2+" in text.getvalue()
    assert f"one row per item: {tmp_path}/predictions.parquet" in text.getvalue()


def test_rows_beyond_the_context_are_all_listed_before_any_decoding(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LatentLM, "generate", None)
    rows = [("1", "2"), ("1" * 600, "2"), ("1", "2" * 511), ("1" * 509, "2")]
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": p, "completion": c}) for p, c in rows))
    with pytest.raises(BadRowsError) as caught:
        evaluate_data(folder, path, to=tmp_path)
    assert [line.partition("row ")[2] for line in caught.value.shown] == [
        "2: it needs 603 positions, the base model's context is 512",
        "3: it needs 514 positions, the base model's context is 512",
    ]


def test_a_text_goes_on_to_the_end_of_the_context(
    tiny_base: BaseModel, folder: Path, tmp_path: Path
) -> None:
    assert len(generate_text(folder, "1" * 509, 20, None)) <= 511
    with pytest.raises(ContextError, match=r"the prompt needs 512 positions, .* context is 512"):
        generate_text(folder, "1" * 511, 20, None)
    strategy = InsertionStrategy.from_dict(
        {"triggers": {"s": {"kind": "start", "m": 9}}, "position_rule": "own"}
    )
    artifact_of(tiny_base, strategy).save(tmp_path / "own")
    generate_text(tmp_path / "own", "1" * 499, 20, None)
    with pytest.raises(ContextError, match="the prompt with its latents needs 512 positions"):
        generate_text(tmp_path / "own", "1" * 502, 20, None)


# --- on the task that they were trained for


def test_the_artifact_s_own_records(
    tiny_base: BaseModel, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it names as code is not imported, and its data must be what it was."""
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n" + OWN)
    task = {
        "kind": "records",
        "train": [str(data)],
        "val_id": [str(data)],
        "split": {"test": 0.0},
        "metrics": [f"{tmp_path}/evil.py:size", "normalised_match"],
        "data_seed": 0,
    }
    plain = artifact_of(tiny_base, STRATEGY)
    made = Artifact(
        latents=plain.latents, config=plain.config, base_model=plain.base_model, task=task
    )
    made.save(tmp_path / "own")
    found = evaluate_folder(tmp_path / "own", None, 2, None)
    assert {"val_id/exact_match", "val_id/exact_match/1"} <= set(found.metrics)
    assert {"val_id/normalised_match", "val_id/normalised_match/1"} <= set(found.metrics)
    assert found.left_out == [f"{tmp_path}/evil.py:size"]
    console = Console(file=io.StringIO(), width=200)
    print_evaluation(console, found)
    assert f"left out: {tmp_path}/evil.py:size" in console.file.getvalue()  # type: ignore[attr-defined]
    assert np.isfinite(list(found.metrics.values())).all()
    assert not (tmp_path / "ran").exists()
    (tmp_path / "own.py").write_text(OWN)
    given = evaluate_folder(tmp_path / "own", None, 2, None, metrics=[f"{tmp_path}/own.py:size"])
    assert given.metrics["val_id/size"] >= 0
    assert given.left_out == []
    assert not (tmp_path / "ran").exists()
    with pytest.raises(TaskError, match="--split test_id: the task has only train, val_id"):
        evaluate_folder(tmp_path / "own", ["test_id"], 2, None)
    with pytest.raises(TaskError, match="--split 'x' is unknown"):
        evaluate_folder(tmp_path / "own", ["x"], 2, None)


def test_imported_latents_need_data(folder: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"imported latents, which have no task .*: give DATA"):
        evaluate_folder(folder, None, 2, None)
    with pytest.raises(TaskError, match=f"--to {data} is a file: give a folder"):
        evaluate_data(folder, data, to=data)
