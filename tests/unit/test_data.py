"""Encoding, the one stream of examples, and means over distances."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from transformers import PreTrainedTokenizerFast

from trainable.answer_metrics import AnswerMetric
from trainable.data import EncodedTask, Example, ExampleStream, Split, encode, mean_by_distance
from trainable.errors import TaskError


def test_a_closed_completion_ends_with_eos(tokenizer: PreTrainedTokenizerFast) -> None:
    row = encode(Example("1+1=", "2", distance=3), tokenizer)
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    plain = [tokenizer.convert_tokens_to_ids(character) for character in "1+1=2"]
    assert row.ids.tolist() == [bos, *plain, eos]
    assert (row.query_length, row.distance) == (5, 3)


def test_an_open_completion_does_not(tokenizer: PreTrainedTokenizerFast) -> None:
    row = encode(Example("1+1=", "2", closed=False), tokenizer)
    assert tokenizer.decode(row.ids[row.query_length :]) == "2"
    assert tokenizer.eos_token_id not in row.ids


def test_an_empty_closed_completion_is_eos_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    row = encode(Example("1+1=", ""), tokenizer)
    assert row.ids[row.query_length :].tolist() == [tokenizer.eos_token_id]


def test_nothing_to_predict_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(TaskError, match=r"1\+1=.*empty completion"):
        encode(Example("1+1=", "", closed=False), tokenizer)


def test_a_tokenizer_without_eos_cannot_close(tokenizer: PreTrainedTokenizerFast) -> None:
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    assert encode(Example("1", "2", closed=False), bare).query_length == 2
    with pytest.raises(TaskError, match="no EOS"):
        encode(Example("1", "2"), bare)


class ListTask:
    """Rows from a list; the score is the share of right tokens."""

    def __init__(self, rows: list[Example]) -> None:
        self.rows = rows
        self.reads = 0

    @property
    def splits(self) -> tuple[Split, ...]:
        return ("train",)

    @property
    def answer_metrics(self) -> dict[str, AnswerMetric]:
        return {}

    def examples(self, split: Split) -> Sequence[Example]:
        self.reads += 1
        return self.rows if split == "train" else []

    def score(self, texts: Sequence[str], right_N: npt.NDArray[np.bool_]) -> dict[str, float]:
        return {"letters": float("".join(texts) == "2</s>")}


def test_splits_are_encoded_once(tokenizer: PreTrainedTokenizerFast) -> None:
    task = ListTask([Example("1+1=", "2")])
    data = EncodedTask(task, tokenizer)
    assert data.rows("train") is data.rows("train")
    assert task.reads == 1


def test_an_empty_split_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(TaskError, match="no rows in split val_id"):
        EncodedTask(ListTask([]), tokenizer).rows("val_id")


def test_a_task_scores_the_texts_of_the_response(tokenizer: PreTrainedTokenizerFast) -> None:
    data = EncodedTask(ListTask([Example("1+1=", "2")]), tokenizer)
    scores = data.score(data.rows("train")[0], np.array([True, False]))
    assert scores == {"exact_match": 0.0, "token_accuracy": 0.5, "letters": 1.0}


def test_the_stream_does_not_depend_on_the_batch_size() -> None:
    def first(count: int, batch_rows: int) -> list[int]:
        stream = ExampleStream(10, seed=3)
        return [row for step in range(count // batch_rows) for row in stream.rows(step, batch_rows)]

    expected = first(60, 1)
    for batch_rows in (2, 3, 4, 5, 6, 10, 12, 15, 20, 30, 60):
        assert first(60, batch_rows) == expected


def test_each_pass_of_the_stream_is_another_permutation() -> None:
    stream = ExampleStream(10, seed=3)
    passes = [stream.rows(number, 10) for number in range(5)]
    assert all(sorted(rows) == list(range(10)) for rows in passes)
    assert len({tuple(rows) for rows in passes}) == 5


def test_the_stream_can_be_read_at_any_step() -> None:
    ahead = ExampleStream(7, seed=1).rows(40, 5)
    stream = ExampleStream(7, seed=1)
    assert [stream.rows(step, 5) for step in range(41)][-1] == ahead


def test_the_stream_keeps_few_passes_of_many_rows() -> None:
    """Each pass of a million rows is 8 MB: what is not kept is drawn again, and is the same."""
    stream, size = ExampleStream(1_000_000, seed=2), 1_000_000
    first = stream.rows(0, 8)
    tracemalloc.start()
    try:
        for number in range(1, 20):
            stream.rows(number * size // 8, 8)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 80e6
    assert (
        stream.rows(0, 8) == first == np.random.default_rng((2, 0)).permutation(size)[:8].tolist()
    )


def test_a_step_may_read_several_passes() -> None:
    passes = [np.random.default_rng((3, number)).permutation(5).tolist() for number in range(6)]
    flat = [row for each in passes for row in each]
    stream = ExampleStream(5, seed=3)
    assert stream.rows(0, 12) == flat[:12]
    assert stream.rows(1, 12) == flat[12:24]


def test_another_data_seed_is_another_stream() -> None:
    assert ExampleStream(50, seed=0).rows(0, 50) != ExampleStream(50, seed=1).rows(0, 50)


def test_mean_by_distance_is_unweighted_over_distances() -> None:
    scores = [(8, {"em": 1.0}), (8, {"em": 0.0}), (8, {"em": 0.0}), (8, {"em": 0.0})]
    scores += [(12, {"em": 1.0})]
    assert mean_by_distance(scores, "val_ood") == {
        "val_ood/em": 0.625,  # not 2 of 5
        "val_ood/em/8": 0.25,
        "val_ood/em/12": 1.0,
    }


def test_mean_by_distance_holds_every_metric() -> None:
    scores = [(3, {"a": 1.0, "b": 0.5}), (4, {"a": 0.0, "b": 1.0})]
    means = mean_by_distance(scores, "val_id")
    assert means["val_id/a"] == 0.5
    assert means["val_id/b"] == 0.75
    assert len(means) == 6
