"""Too much at once: smaller micro-batches, the same result, and it is said once."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from trainable.base_model.loading import BaseModel
from trainable.data import EncodedRow, EncodedTask, Example, Ints, Split
from trainable.engine import Engine, TrialSpec
from trainable.errors import RowMemoryError
from trainable.memory import largest
from trainable.trial import TrialConfig


class RowsTask:
    """These rows in every split."""

    splits: tuple[Split, ...] = ("train", "val_id")
    answer_metrics: Mapping[str, Any] = {}

    def __init__(self, rows: Sequence[EncodedRow]) -> None:
        self._rows = rows

    def examples(self, split: Split) -> list[Example]:
        return [Example("", "")] * len(self._rows)

    def encoded(self, split: Split) -> Sequence[EncodedRow]:
        return self._rows

    def lengths(self, split: Split) -> Ints:
        return np.array([len(row.ids) for row in self._rows])

    def score(self, texts: Any, right_N: Any) -> dict[str, float]:
        return {}


UIDS = ("start", "long", "every")


def trial(kind: str, m: int, **fields: Any) -> TrialConfig:
    triggers = {"t": {"kind": kind, "m": m, **fields}}
    return TrialConfig.from_dict({"strategy": {"triggers": triggers}, "optim": {"batch_rows": 4}})


CONFIGS = {"start": trial("start", 2), "long": trial("start", 60), "every": trial("every", 1, k=4)}


def joined(base: BaseModel, data: EncodedTask, **options: Any) -> Engine:
    engine = Engine(base, **options)
    for uid in UIDS:
        engine.join(TrialSpec(uid, CONFIGS[uid], 20), data)
    return engine


@contextmanager
def memory_of(model: Any, slots: int, *, backward: bool) -> Iterator[None]:
    """The model runs out of memory above so many slots, in its forward or half into a backward."""

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("out of memory")

    def watch(_: Any, __: Any, options: dict[str, Any], output: Any) -> None:
        if options["position_ids"].numel() > slots:
            if not (backward and output.logits.requires_grad):
                fail()
            output.logits.register_hook(fail)

    hook = model.register_forward_hook(watch, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


@pytest.mark.parametrize("backward", [False, True])
def test_out_of_memory_halves_the_micro_batch_and_changes_nothing(
    tiny_base: BaseModel, tiny_data: EncodedTask, caplog: pytest.LogCaptureFixture, backward: bool
) -> None:
    expected, engine = (joined(tiny_base, tiny_data, micro_batch_tokens=2000) for _ in range(2))
    losses = [expected.step() for _ in range(3)]
    with memory_of(tiny_base.model, 150, backward=backward), caplog.at_level(logging.WARNING):
        found = [engine.step() for _ in range(3)]
    assert engine.micro_batch_tokens <= 150
    assert caplog.text.count("out of memory with") == 2  # 500 or so, 250, and then no more
    assert "engine.micro_batch_tokens" in caplog.text
    for one, other in zip(found, losses, strict=True):
        assert one == pytest.approx(other, rel=1e-5)
    for uid in UIDS:
        for name in ("latents", "exp_avg"):
            after, wanted = (getattr(each.state(uid), name) for each in (engine, expected))
            assert np.abs(after - wanted).max() < 1e-5 * np.abs(wanted).max()
    assert engine.slots.useful == expected.slots.useful  # what was done twice counts once


@pytest.mark.parametrize("slots", [300, 40])
def test_prefixes_that_do_not_fit_together_are_no_row_that_does_not(
    tiny_base: BaseModel, tiny_data: EncodedTask, caplog: pytest.LogCaptureFixture, slots: int
) -> None:
    """Fewer at once; and where a single one does not fit, whole rows tell the truth."""
    config = TrialConfig.from_dict(
        {"strategy": {"triggers": {"e": {"kind": "end", "m": 2}}}, "optim": {"batch_rows": 16}}
    )
    rows = [EncodedRow(np.arange(10, 70) % 50 + first, 56, 0) for first in range(24)]
    data = EncodedTask(RowsTask(rows), tiny_base.tokenizer)
    engines = [Engine(tiny_base, share_prefixes=sharing) for sharing in ("off", "on")]
    for engine in engines:
        for place in range(4):
            engine.join(TrialSpec(str(place), config, 20), data)
    expected, engine = engines
    with memory_of(tiny_base.model, slots, backward=False), caplog.at_level(logging.WARNING):
        found = engine.step()
    if slots < len(rows[0].ids):
        for uid in engine.trials():
            with pytest.raises(RowMemoryError, match="a row of 62 tokens"):
                engine.raise_failure(uid)
        return
    assert engine.micro_batch_tokens <= slots
    assert found == pytest.approx(expected.step(), rel=1e-5)
    for uid in engine.trials():
        engine.raise_failure(uid)
        after, wanted = engine.state(uid).exp_avg, expected.state(uid).exp_avg
        assert np.abs(after - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_a_row_that_does_not_fit_fails_its_trial_alone(
    tiny_base: BaseModel, tiny_data: EncodedTask
) -> None:
    expected, engine = (joined(tiny_base, tiny_data) for _ in range(2))
    before = engine.state("long").latents
    with memory_of(tiny_base.model, 60, backward=True):
        engine.step()
        engine.step()
    expected.step()
    expected.step()
    with pytest.raises(RowMemoryError, match=r"trial long: a row of \d+ tokens.*data.max_tokens"):
        engine.raise_failure("long")
    assert np.array_equal(engine.state("long").latents, before)
    assert [engine.step_of(uid) for uid in UIDS] == [2, 0, 2]
    for uid in ("start", "every"):
        engine.raise_failure(uid)
        difference = np.abs(engine.state(uid).latents - expected.state(uid).latents).max()
        assert difference < 1e-5


def test_scoring_halves_too_and_fails_one_alone(
    tiny_base: BaseModel, tiny_data: EncodedTask
) -> None:
    engine = joined(tiny_base, tiny_data)
    expected = engine.evaluate(UIDS, ["val_id"])
    with memory_of(tiny_base.model, 60, backward=False):
        found = engine.evaluate(UIDS, ["val_id"])
    for uid in ("start", "every"):
        assert found[uid] == pytest.approx(expected[uid], rel=1e-5)
    with pytest.raises(RowMemoryError, match="trial long: a row of"):
        engine.raise_failure("long")
    engine.raise_failure("start")


def test_a_resident_trial_is_small(tiny_base: BaseModel, tiny_data: EncodedTask) -> None:
    engine = joined(tiny_base, tiny_data)
    width = tiny_base.model.config.hidden_size
    assert engine.resident_bytes("start") == 3 * 2 * width * 4
    assert engine.resident_bytes("long") == 3 * 60 * width * 4
    engine.step()
    engine.leave("long")
    assert engine.resident_bytes("start") == 3 * 2 * width * 4


def test_auto_has_the_default_where_there_is_no_gpu(tiny_base: BaseModel) -> None:
    found = Engine(tiny_base, micro_batch_tokens="auto").micro_batch_tokens
    assert found == Engine(tiny_base).micro_batch_tokens


@pytest.mark.parametrize(("fitting", "expected"), [(9000, 8192), (8192, 8192), (100, 1024)])
def test_probing_doubles_until_it_does_not_fit(fitting: int, expected: int) -> None:
    tried: list[int] = []

    def fits(tokens: int) -> bool:
        tried.append(tokens)
        return tokens <= fitting

    assert largest(fits) == expected
    assert tried == sorted(set(tried))


def test_probing_ends() -> None:
    assert largest(lambda _: True) == 262_144
