"""What an engine scores: the common metrics, answers as text, and what becomes of long rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.decoding_reference import artifact_of
from trainable.answers import free_answers
from trainable.base_model.loading import BaseModel
from trainable.batch import labelled_logits, prepare
from trainable.data import EncodedRow, EncodedTask, Example, Split
from trainable.decoding import LatentLM
from trainable.decoding_pool import DecodingPool
from trainable.engine import Engine, TrialSpec
from trainable.errors import BadRowsError, TaskError
from trainable.evaluation import ANSWER_MARGIN_TOKENS, answer_metrics
from trainable.state import TrialState
from trainable.strategy import InsertionStrategy
from trainable.tasks import build_task
from trainable.trial import TrialConfig

STRATEGY = InsertionStrategy.from_dict(
    {
        "triggers": {"s": {"kind": "start", "m": 2}, "c": {"kind": "delimiter", "m": 1}},
        "specialization": "by_trigger",
    }
)


def join(engine: Engine, uid: str, data: EncodedTask, **options: Any) -> None:
    """A trial with random latents, so that answers differ from the frozen model's."""
    latents = artifact_of(engine.base, STRATEGY).latents
    state = TrialState(0, latents, np.zeros_like(latents), np.zeros_like(latents))
    engine.join(TrialSpec(uid, TrialConfig(strategy=STRATEGY), 1, **options), data, state)


def records(base: BaseModel, folder: Path, rows: list[dict[str, Any]], **options: Any) -> Any:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    files = {"train": [str(path)], "val_id": [str(path)], "split": {"test": 0.0}}
    return build_task({"kind": "records", **files, **options}, 0, tokenizer=base.tokenizer)


ROWS: list[dict[str, Any]] = [
    {"prompt": f"{'x,' * (i % 3)}{i}=", "completion": "1" * (1 + i % 4)} for i in range(9)
]


def test_nll_and_accuracy_are_those_of_each_row_alone(
    tiny_base: BaseModel, tiny_data: EncodedTask
) -> None:
    engine = Engine(tiny_base, micro_batch_tokens=64)
    join(engine, "t", tiny_data)
    found = engine.evaluate(["t"], ["val_id"])["t"]
    rules, latents = engine.resolve(STRATEGY), artifact_of(tiny_base, STRATEGY).latents
    by_distance: dict[int, list[tuple[float, float]]] = {}
    for row in tiny_data.rows("val_id"):
        prepared = prepare(0, row, rules)
        logits_NV, labels_N, _ = labelled_logits(
            tiny_base.model, [prepared], [torch.from_numpy(latents)]
        )
        nll_N = -logits_NV.log_softmax(-1).gather(1, labels_N[:, None])
        right = (logits_NV.argmax(-1) == labels_N).float().mean()
        by_distance.setdefault(row.distance, []).append((float(nll_N.mean()), float(right)))
    for distance, pairs in by_distance.items():
        nll, right = np.mean(pairs, axis=0)
        assert found[f"val_id/nll/{distance}"] == pytest.approx(nll, rel=1e-5)
        assert found[f"val_id/token_accuracy/{distance}"] == pytest.approx(right)
    means = [found[f"val_id/nll/{distance}"] for distance in by_distance]
    assert found["val_id/nll"] == pytest.approx(np.mean(means))


OWN = """
calls = []
def length(*, answer, reference, prompt):
    calls.append((answer, reference, prompt))
    return len(answer)
def picky(*, answer, reference, prompt):
    return 1 / len(prompt.strip("="))  # raises for one row
"""


def test_answers_are_those_of_free_greedy_decoding(tiny_base: BaseModel, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    metrics = ["normalised_match", f"{tmp_path}/own.py:length"]
    task = records(tiny_base, tmp_path, ROWS, metrics=metrics)
    engine = Engine(tiny_base)
    data = engine.encode(task)
    join(engine, "t", data)
    found = engine.evaluate(["t"], ["val_id"])["t"]
    assert {"val_id/exact_match", "val_id/normalised_match", "val_id/length/0"} <= set(found)
    calls = task.answer_metrics["length"].__globals__["calls"]
    assert [(reference, prompt) for _, reference, prompt in calls] == [
        (row["completion"], row["prompt"]) for row in ROWS
    ]
    lm = LatentLM.build(tiny_base.model, tiny_base.tokenizer, artifact_of(tiny_base, STRATEGY))
    limit = 4 + 1 + ANSWER_MARGIN_TOKENS  # the longest reference, its EOS, and the margin
    answers = []
    for row in ROWS:
        ids = lm.tokenizer(row["prompt"], return_tensors="pt")["input_ids"]
        out = lm.generate(ids, max_new_tokens=limit, do_sample=False)[0, ids.shape[1] :]
        answers.append(lm.tokenizer.decode(out, skip_special_tokens=True))
    assert [answer for answer, _, _ in calls] == answers
    assert len(set(answers)) > 1
    assert found["val_id/length"] == pytest.approx(np.mean([len(answer) for answer in answers]))


def test_a_trial_whose_answers_cannot_be_scored_fails_alone(
    tiny_base: BaseModel, tmp_path: Path
) -> None:
    (tmp_path / "own.py").write_text(OWN)
    rows = [*ROWS[:3], {"prompt": "=", "completion": "1"}]
    engine = Engine(tiny_base)
    bad = engine.encode(records(tiny_base, tmp_path, rows, metrics=[f"{tmp_path}/own.py:picky"]))
    join(engine, "bad", bad)
    join(engine, "good", engine.encode(records(tiny_base, tmp_path, ROWS)))
    found = engine.evaluate(["bad", "good"], ["val_id"])
    assert "val_id/exact_match" in found["good"]
    engine.raise_failure("good")
    with pytest.raises(TaskError, match=r"picky raised ZeroDivisionError: .*rows\.jsonl row 4"):
        engine.raise_failure("bad")


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_trial_may_leave_at_any_piece_of_its_scoring(
    tiny_base: BaseModel, tiny_data: EncodedTask, tmp_path: Path, deterministic: bool
) -> None:
    """Its mate is scored as ever, and another trial trains on."""
    task = records(tiny_base, tmp_path, ROWS[:3], metrics=["normalised_match"])
    engine = Engine(tiny_base, deterministic=deterministic)
    data = engine.encode(task)
    join(engine, "mate", data)
    join(engine, "other", tiny_data)
    pieces, expected = 0, None
    while True:
        join(engine, "left", data, times_decoding=True)
        scoring = engine.evaluation(["left", "mate"], ["val_id"])
        try:
            for _ in range(pieces):
                next(scoring)
        except StopIteration as end:
            assert "cost/ms_per_token" in end.value["left"]
            break
        engine.leave("left")
        engine.step(["other"])
        while True:
            try:
                next(scoring)
            except StopIteration as end:
                found = end.value["mate"]
                break
        expected = expected or found
        assert found == pytest.approx(expected, rel=1e-5)
        pieces += 1
    assert pieces > 4
    assert expected is not None
    assert "val_id/normalised_match" in expected


def test_a_reference_is_what_its_tokens_say(
    tiny_base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A template without a generation prompt leaves the mark of the turn to the answer."""
    template = "{% for m in messages %}{{ '[' + m.role + ']' + m.content }}{% endfor %}"
    monkeypatch.setattr(tiny_base.tokenizer, "chat_template", template)
    turns = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "9"}]
    task = records(tiny_base, tmp_path, [{"messages": turns}] * 2, metrics=["normalised_match"])
    data = Engine(tiny_base).encode(task)
    lm = LatentLM.build(tiny_base.model, tiny_base.tokenizer, artifact_of(tiny_base, STRATEGY))
    perfect = [row.ids[row.query_length :] for row in data.rows("val_id")]
    monkeypatch.setattr(DecodingPool, "steps", lambda *_: iter([list(enumerate(perfect))]))
    assert data.answer_text(perfect[0]) == "[assistant]9"
    assert [found for _, found in answer_metrics(lm, data, "val_id")] == [
        {"normalised_match": 1.0}
    ] * 2


class Numbered:
    """Rows without an origin, one of which has no answer that counts."""

    splits: tuple[Split, ...] = ("train", "val_id")

    @property
    def answer_metrics(self) -> dict[str, Any]:
        return {"none": lambda *, answer, reference, prompt: None if prompt == "2" else 1}

    def examples(self, split: Split) -> list[Example]:
        return [Example(prompt, "1") for prompt in "12"]

    def score(self, texts: Any, right_N: Any) -> dict[str, float]:
        return {}


def test_rows_that_were_made_are_told_by_split_and_place(tiny_base: BaseModel) -> None:
    engine = Engine(tiny_base)
    join(engine, "t", engine.encode(Numbered()))
    engine.evaluate(["t"], ["val_id"])
    with pytest.raises(TaskError, match="none returned None at val_id row 2"):
        engine.raise_failure("t")


def test_an_answer_ends_with_eos_or_with_a_chat_s_end_mark(tiny_base: BaseModel) -> None:
    """Where a reference ends with a special token; any other last token ends nothing."""
    lm = LatentLM.build(tiny_base.model, tiny_base.tokenizer, artifact_of(tiny_base, STRATEGY))
    tokenizer = tiny_base.tokenizer
    mark = tokenizer.convert_tokens_to_ids("<unk>")
    assert isinstance(mark, int)
    queries = [tokenizer(str(number))["input_ids"] for number in range(200)]

    def answers(last: int) -> list[list[int]]:
        rows = [EncodedRow(np.array([*query, 9, last]), len(query), 0) for query in queries]
        return [ids.tolist() for ids in free_answers(lm, rows, 12, 200)]

    open_ended = answers(9)
    for marked, full in zip(answers(mark), open_ended, strict=True):
        cut = full.index(mark) + 1 if mark in full else len(full)
        assert marked == full[:cut]
    assert any(mark in full for full in open_ended), "the mark was never written"
    assert all(tokenizer.eos_token_id not in full[:-1] for full in open_ended)


# --- long rows

LONG = [{"prompt": "1" * 30, "completion": "2"}, {"prompt": ",,,,1" * 2, "completion": "2"}]


def test_rows_beyond_the_limit_are_dropped_from_every_split(
    tiny_base: BaseModel, tmp_path: Path
) -> None:
    engine = Engine(tiny_base)
    task = records(tiny_base, tmp_path, [LONG[0], *ROWS[:5], LONG[0], *ROWS[5:]])
    with pytest.raises(BadRowsError, match=r"row 1: 33 tokens, .* data\.max_tokens=20") as caught:
        engine.check_context(engine.encode(task), 20)
    assert caught.value.count == 4  # in train and in val_id
    assert "data.long_rows: drop" in str(caught.value)
    data = engine.encode(task, max_tokens=20, long_rows="drop")
    engine.check_context(data, 20)
    assert [data.dropped(split) for split in data.splits] == [2, 2]
    assert [data.example("val_id", place).completion for place in range(9)] == [
        row["completion"] for row in ROWS
    ]
    assert [len(row.ids) for row in data.rows("val_id")] == data.lengths("val_id").tolist()


def test_without_a_limit_of_one_s_own_the_context_is_the_limit(
    tiny_base: BaseModel, tmp_path: Path
) -> None:
    engine = Engine(tiny_base)
    assert engine.context == 512
    task = records(tiny_base, tmp_path, [*ROWS, {"prompt": "1" * 600, "completion": "2"}])
    with pytest.raises(BadRowsError) as caught:
        engine.check_context(engine.encode(task))
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("bad data: 2 problems: shorten these rows")
    where = f"- {tmp_path}/rows.jsonl row 10: 603 tokens, in"
    assert lines[1:] == [
        f"{where} {split}, are above the base model's context of 512"
        for split in ("train", "val_id")
    ]
    assert engine.encode(task, long_rows="drop").dropped("train") == 1


def test_nothing_left_is_refused(tiny_base: BaseModel, tmp_path: Path) -> None:
    engine = Engine(tiny_base)
    data = engine.encode(records(tiny_base, tmp_path, ROWS), max_tokens=2, long_rows="drop")
    with pytest.raises(TaskError, match="every row of train has more than 2 tokens"):
        data.rows("train")


def test_a_row_too_long_for_one_strategy_is_left_out_of_its_training_alone(
    tiny_base: BaseModel, tmp_path: Path
) -> None:
    """The limit holds for the verbal tokens of all rows, but not for one with its latents."""
    rows = [*ROWS[:3], LONG[1]]  # 13 tokens, and 2 + 8 latents
    engine = Engine(tiny_base)
    task = records(tiny_base, tmp_path, rows)
    data = engine.encode(task, max_tokens=16, long_rows="drop")
    with pytest.raises(TaskError, match=r"a row of train has 23 tokens with its latents"):
        join(engine, "refused", data, max_tokens=16)
    join(engine, "t", data, max_tokens=16, long_rows="drop")
    trial = engine._trials["t"]
    assert trial.dropped_N is not None
    assert trial.dropped_N.tolist() == [False, False, False, True]
    order = trial.stream.rows(0, trial.config.optim.batch_rows)
    assert 3 in order
    assert trial.next_rows() == [row for row in order if row != 3]
    assert np.isfinite(engine.step(["t"])["t"])
    metrics = engine.evaluate(["t"], ["val_id"])["t"]
    assert metrics["cost/dropped_rows_pct"] == 25.0
    # It is scored on all rows, as its rivals are.
    verbal = sum(len(row.ids) for row in data.rows("val_id"))
    latents = 2 * 4 + sum(row["prompt"].count(",") for row in rows)
    assert metrics["cost/extra_tokens_pct"] == pytest.approx(100 * latents / verbal)


def test_a_step_all_of_whose_rows_are_dropped_changes_nothing(
    tiny_base: BaseModel, tmp_path: Path
) -> None:
    """It has no loss either; the next one with a row goes on."""
    engine = Engine(tiny_base)
    task = records(tiny_base, tmp_path, [ROWS[0], LONG[1]])
    data = engine.encode(task, max_tokens=16, long_rows="drop")
    config = TrialConfig.from_dict({"strategy": STRATEGY.to_dict(), "optim": {"batch_rows": 1}})
    engine.join(TrialSpec("t", config, 8, max_tokens=16, long_rows="drop"), data)
    was_empty = []
    for step in range(1, 9):
        before, rows = engine.state("t"), engine._trials["t"].next_rows()
        losses = engine.step()
        after = engine.state("t")
        was_empty.append(not rows)
        assert after.step == step
        assert ("t" in losses) == bool(rows)
        for name in ("latents", "exp_avg", "exp_avg_sq"):
            same = np.array_equal(getattr(after, name), getattr(before, name))
            assert same == (not rows), name
    assert any(was_empty[was_empty.index(False) :]), "momentum would not have shown"


def test_a_trial_that_drops_nothing_says_nothing(tiny_base: BaseModel, tmp_path: Path) -> None:
    engine = Engine(tiny_base)
    data = engine.encode(records(tiny_base, tmp_path, ROWS), max_tokens=99, long_rows="drop")
    join(engine, "t", data, max_tokens=99, long_rows="drop")
    assert "cost/dropped_rows_pct" not in engine.evaluate(["t"], ["val_id"])["t"]


def test_a_strategy_that_leaves_no_row_to_train_on_is_refused(
    tiny_base: BaseModel, tmp_path: Path
) -> None:
    engine = Engine(tiny_base)
    data = engine.encode(records(tiny_base, tmp_path, ROWS[:1]), max_tokens=6, long_rows="drop")
    with pytest.raises(TaskError, match=r"every training row has more than data\.max_tokens=6"):
        join(engine, "t", data, max_tokens=6, long_rows="drop")
