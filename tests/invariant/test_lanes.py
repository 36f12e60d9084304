"""Micro-batches side by side in threads: the same results, and nothing left running."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from tests.families import WITH_KERNELS, family, random_rows
from tests.invariant.test_fused_equals_alone import CONFIGS, difference, join
from tests.invariant.test_prefix_sharing import latents_of, rows_of
from trainable.base_model.loading import BaseModel, load_base
from trainable.batch import head_reads, lane_tokens
from trainable.data import EncodedTask
from trainable.engine import Engine
from trainable.evaluation import forced_scores
from trainable.lanes import Lanes, lanes_for
from trainable.memory import TokenBudget
from trainable.prefix_plan import Sharing


@pytest.fixture
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("lanes", "tokens", "sharing"),
    [(2, 180, "off"), (2, 2048, "auto"), (3, 600, "on"), (4, 4, "on"), (8, 10**6, "off")],
)
def test_lanes_change_nothing_while_trials_come_and_go(
    tiny_base: BaseModel, tiny_data: EncodedTask, lanes: int, tokens: int, sharing: Sharing
) -> None:
    """In float64 nothing but the latents themselves is rounded."""
    base = load_base(tiny_base.path, dtype="float64", device="cpu")
    engines = [
        Engine(base, micro_batch_tokens=tokens, share_prefixes=sharing, lanes=count)
        for count in (1, lanes)
    ]
    uids = list(CONFIGS)
    for engine in engines:
        join(engine, tiny_data, *uids[:4])
        for uid in uids[4:]:
            engine.step()
            join(engine, tiny_data, uid)
            engine.leave(engine.trials()[0])
    plain, engine = engines
    left = plain.trials()
    for found, expected in zip(engine.gradients(left), plain.gradients(left), strict=True):
        assert difference(found, expected) < 1e-6
    losses = plain.step()
    assert engine.step() == pytest.approx(losses, rel=1e-6)
    assert engine.slots.useful == plain.slots.useful
    scores = plain.evaluate(left, ["val_id", "val_ood"])
    for uid, metrics in engine.evaluate(left, ["val_id", "val_ood"]).items():
        assert metrics == pytest.approx(scores[uid], rel=1e-5)


def test_the_same_lanes_give_the_same_bits(tiny_base: BaseModel, tiny_data: EncodedTask) -> None:
    """Whichever lane is through first: what micro-batches give is added in their order."""
    engines = [Engine(tiny_base, micro_batch_tokens=300, lanes=3) for _ in range(2)]
    for engine in engines:
        join(engine, tiny_data, *CONFIGS)
        for _ in range(5):
            engine.step()
    one, other = engines
    for uid in CONFIGS:
        np.testing.assert_array_equal(one.state(uid).latents, other.state(uid).latents)


@pytest.mark.parametrize(("name", "kernel"), WITH_KERNELS)
def test_each_architecture_in_several_threads(name: str, kernel: str) -> None:
    base = family(name, kernel, torch.float64)
    rows, latents = rows_of(base, random_rows(2)), [each.detach() for each in latents_of(base)]
    plain, found = (
        {id(row): (right_N, nll_N) for row, right_N, nll_N in scored}
        for scored in (
            forced_scores(base.model, rows, latents, TokenBudget(100), "off"),
            forced_scores(base.model, rows, latents, TokenBudget(400, Lanes(4)), "off"),
        )
    )
    assert found.keys() == plain.keys()
    for row, (right_N, nll_N) in found.items():
        np.testing.assert_array_equal(right_N, plain[row][0])
        np.testing.assert_allclose(nll_N, plain[row][1], rtol=1e-5)


def test_each_thread_reads_its_own_slots_and_others_all(tiny_base: BaseModel) -> None:
    model: Any = tiny_base.model
    ids_BT = torch.arange(12).view(2, 6)
    (whole_BTV, meeting) = model(input_ids=ids_BT).logits.detach(), threading.Barrier(3)

    def read(slots: list[int] | None) -> Any:
        meeting.wait(30)
        if slots is None:
            return model(input_ids=ids_BT).logits.detach()
        with head_reads(model, torch.tensor(slots)):
            meeting.wait(30)
            return model(input_ids=ids_BT).logits.detach()

    with ThreadPoolExecutor(3) as pool:
        for _ in range(20):
            asked = [pool.submit(read, slots) for slots in ([0, 7], [5])]
            everywhere = pool.submit(lambda: (read(None), meeting.wait(30))[0])
            for slots, found in zip(([0, 7], [5]), asked, strict=True):
                torch.testing.assert_close(found.result(30), whole_BTV.view(12, -1)[slots])
            torch.testing.assert_close(everywhere.result(30), whole_BTV)
    assert sum(each.__name__ == "_gather" for each in hooks_of(model)) == 1


def hooks_of(model: Any) -> list[Any]:
    return list(model.get_output_embeddings()._forward_pre_hooks.values())


def row(owner: int) -> Any:
    class Row(SimpleNamespace):
        def __len__(self) -> int:
            return 10

    return Row(owner=owner, past=0)


def test_what_a_lane_raises_reaches_the_caller_and_nothing_runs_on(four_threads: None) -> None:
    budget, begun, running = TokenBudget(20, Lanes(2)), list[int](), threading.Semaphore(2)

    def action(batch: list[Any]) -> int:
        assert running.acquire(blocking=False), "more micro-batches at once than there are lanes"
        begun.append(batch[0].owner)
        running.release()
        if batch[0].owner == 3:
            raise ValueError("of the fourth")
        return torch.get_num_threads()

    found = []
    with pytest.raises(ValueError, match="of the fourth"):
        for batch, threads in budget.run([row(owner) for owner in range(40)], action, print):
            found.append((batch[0].owner, threads))
            assert torch.get_num_threads() == 2
    assert found == [(0, 2), (1, 2), (2, 2)]  # in their order, each lane with its share of threads
    assert len(begun) <= 3 + 2 * 2
    assert torch.get_num_threads() == 4
    pieces = budget.run([row(7) for _ in range(40)], action, print)
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    assert torch.get_num_threads() == 4
    assert len(begun) <= 7 + 2 * 2
    assert running.acquire(blocking=False)
    assert running.acquire(blocking=False), "a lane runs on"


def test_out_of_memory_in_a_lane(caplog: pytest.LogCaptureFixture) -> None:
    """Halved for all lanes; a row that does not fit by itself is told, and no other of its owner
    is begun."""
    refused = list[int]()

    def action(batch: list[Any]) -> int:
        if len(batch) > 3 or batch[0].owner == 9:
            raise torch.OutOfMemoryError("out of memory")
        return len(batch)

    budget = TokenBudget(160, Lanes(2))
    rows = [row(owner) for owner in range(9) for _ in range(4)]
    with caplog.at_level(logging.WARNING):
        batches = [len(batch) for batch, _ in budget.run(rows, action, print)]
    assert sum(batches) == len(rows)
    assert max(batches) == 3
    assert budget.tokens == 60  # of two lanes with six rows each: halved once, though both failed
    assert caplog.text.count("out of memory with") == 1
    rest = list(budget.run([row(9) for _ in range(3)], action, lambda r: refused.append(r.owner)))
    assert not rest
    assert set(refused) == {9}


@pytest.mark.parametrize(
    ("rows", "tokens", "lanes", "expected"),
    [
        (8, 2048, 2, 42),  # all rows in one round: 80 slots, half to each, a little uneven
        (1, 2048, 2, 6),  # one row by itself
        (250, 2048, 2, 657),  # 2,500 slots: two rounds of two, none above its share
        (1000, 100, 2, 50),
        (8, 2048, 1, 2048),
    ],
)
def test_a_share_for_each_lane(rows: int, tokens: int, lanes: int, expected: int) -> None:
    assert lane_tokens([row(0) for _ in range(rows)], tokens, lanes) == expected


def test_how_many_lanes(tiny_base: BaseModel, four_threads: None) -> None:
    assert lanes_for(tiny_base.model, 2048) == 4
    assert lanes_for(tiny_base.model, 1024) == 2
    assert lanes_for(tiny_base.model, 100) == 1

    class OfOnesOwn(LlamaForCausalLM):
        """Code that nobody knows to be safe in threads."""

    config: Any = tiny_base.model.config
    foreign = OfOnesOwn(config)
    assert lanes_for(foreign, 2048) == 1
    torch.set_num_threads(1)
    assert lanes_for(tiny_base.model, 2048) == 1
