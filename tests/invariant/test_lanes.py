"""Micro-batches side by side in threads: the same results, and nothing left running."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from tests.families import WITH_KERNELS, family, random_rows
from tests.invariant.test_fused_equals_alone import CONFIGS, come_and_go, difference, join
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
    for engine in engines:
        come_and_go(engine, tiny_data, *CONFIGS)
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


def row(owner: int, length: int = 10) -> Any:
    class Row(SimpleNamespace):
        def __len__(self) -> int:
            return length

    return Row(owner=owner, past=0)


class Doing:
    """What is done to micro-batches, and how many of their slots are in the model at once."""

    def __init__(self, fits: int = 10**6) -> None:
        self.most = self.now = 0
        self.threads = list[tuple[int, int]]()  # rows of a batch, and threads that it has
        self._fits = fits
        self._lock = threading.Lock()

    def __call__(self, batch: list[Any]) -> int:
        slots = sum(map(len, batch))
        with self._lock:
            self.now += slots
            self.most = max(self.most, self.now)
            self.threads.append((len(batch), torch.get_num_threads()))
        time.sleep(0.005)
        with self._lock:
            self.now -= slots
        if slots > self._fits:
            # As a CPU's allocator says it.
            raise RuntimeError(
                "[enforce fail] . DefaultCPUAllocator: can't allocate memory: you .."
            )
        if batch[0].owner == 3:
            raise ValueError("of the fourth")
        return len(batch)


def test_each_lane_has_its_share_of_threads_and_one_by_itself_all(four_threads: None) -> None:
    doing = Doing()
    found = list(TokenBudget(20, Lanes(2)).run([row(0) for _ in range(5)], doing, print))
    assert [len(batch) for batch, _ in found] == [1] * 5
    assert sorted(doing.threads) == [(1, 2)] * 4 + [(1, 4)]
    assert torch.get_num_threads() == 4


@pytest.mark.parametrize(
    ("lengths", "tokens", "lanes", "most"),
    [
        ([1500] * 4, 2048, 2, 1500),  # longer than a lane's share: one after the other
        ([1000] * 4, 2048, 2, 2000),
        ([900, 900, 200, 200, 30], 1024, 4, 1024),
        ([3000, 10], 2048, 2, 3000),
    ],
)
@pytest.mark.parametrize("in_one_go", [False, True])
def test_lanes_together_keep_to_the_budget(
    lengths: list[int], tokens: int, lanes: int, most: int, in_one_go: bool
) -> None:
    doing, rows = Doing(), [row(0, each) for each in lengths]
    budget = TokenBudget(tokens, Lanes(lanes))
    done = list(budget.run(rows, doing, print, in_one_go=in_one_go))
    assert sum(len(batch) for batch, _ in done) == len(lengths)
    assert 0 < doing.most <= most


def test_what_a_lane_raises_reaches_the_caller_and_nothing_runs_on(four_threads: None) -> None:
    doing = Doing()
    pieces = TokenBudget(20, Lanes(2)).run([row(owner) for owner in range(40)], doing, print)
    with pytest.raises(ValueError, match="of the fourth"):
        for _ in pieces:
            assert doing.now == 0, "something runs while its caller does something else"
            assert torch.get_num_threads() == 4
    assert len(doing.threads) == 4
    assert (doing.now, torch.get_num_threads()) == (0, 4)


def test_in_one_go_no_lane_waits_for_another_and_the_largest_begin_first() -> None:
    begun, done, last = list[int](), list[int](), threading.Event()
    counts = {90: 1, 40: 4, 30: 2, 20: 5}  # rows by their length: 410 slots, 107 to a batch at most
    rows = [row(0, length) for length, count in counts.items() for _ in range(count)]

    def action(batch: list[Any]) -> int:
        slots = sum(map(len, batch))
        begun.append(slots)
        if slots == 100:
            assert last.wait(10), "the last one waited for this one's end"
        elif slots == 60:
            last.set()
        return slots

    for batch, slots in TokenBudget(320, Lanes(2)).run(rows, action, print, in_one_go=True):
        assert len(begun) == 5, "all have run before the first is seen"
        assert sum(map(len, batch)) == slots
        done.append(slots)
    assert begun == [100, 90, 80, 80, 60]
    assert done == [90, 80, 80, 60, 100]  # what they give is added in the rows' order


def test_one_lane_runs_one_after_the_other_also_in_one_go() -> None:
    """On a GPU, where results would pile up."""
    doing, budget = Doing(), TokenBudget(20, Lanes())
    found = budget.run([row(0) for _ in range(6)], doing, print, in_one_go=True)
    for seen, _ in enumerate(found):
        assert len(doing.threads) == seen + 1


@pytest.mark.parametrize("in_one_go", [False, True])
def test_a_cpu_without_memory_halves_what_all_lanes_do(
    caplog: pytest.LogCaptureFixture, in_one_go: bool
) -> None:
    doing, budget, refused = Doing(fits=30), TokenBudget(160, Lanes(2)), list[int]()
    rows = [row(9) for _ in range(36)]
    with caplog.at_level(logging.WARNING):
        found = budget.run(rows, doing, print, in_one_go=in_one_go)
        batches = [len(batch) for batch, _ in found]
    assert sum(batches) == len(rows)
    assert max(batches) == 3
    assert budget.tokens == 60  # of two lanes with six rows each: halved once, though both failed
    assert caplog.text.count("out of memory with") == 1
    large = [row(7, 40), row(8, 25), row(7, 31), row(8, 20)]
    left = budget.run(large, doing, lambda r: refused.append(r.owner), in_one_go=in_one_go)
    done = [batch[0].owner for batch, _ in left]
    assert refused == [7]
    assert done.count(8) == 2


def test_training_does_not_wait_behind_another_evaluation(
    tiny_base: BaseModel, tiny_data: EncodedTask
) -> None:
    """An evaluation that is suspended between two pieces has nothing under way."""
    engine = Engine(tiny_base, micro_batch_tokens=90, lanes=2)
    join(engine, tiny_data, "start", "comma")
    inside, most = [0], [0]

    def enter(*_: object) -> None:
        inside[0] += 1
        most[0] = max(most[0], inside[0])

    def leave(*_: object) -> None:
        inside[0] -= 1

    hooks = [
        tiny_base.model.register_forward_pre_hook(enter),
        tiny_base.model.register_forward_hook(leave),
    ]
    pieces = 0
    try:
        for _ in engine.evaluation(["start"], ["val_id"]):
            assert inside[0] == 0
            engine.step(["comma"])
            pieces += 1
    finally:
        for hook in hooks:
            hook.remove()
    assert most[0] == 2, "no two micro-batches were side by side"
    assert engine.step_of("comma") == pieces > 3


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
