"""A trial's neighbours are no part of its result: what trains together is what trains alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from trainable.base_model.loading import BaseModel, load_base
from trainable.data import EncodedTask
from trainable.engine import Engine, TrialSpec
from trainable.errors import ArtifactError, NumericError, UnknownTrialError
from trainable.state import Floats, TrialState
from trainable.trial import TrialConfig

BUDGET_STEPS = 60


def trigger(kind: str, m: int, **fields: Any) -> dict[str, Any]:
    return {"kind": kind, "m": m, **fields}


def config(
    triggers: list[dict[str, Any]],
    *,
    specialization: str = "by_trigger",
    init: dict[str, Any] | None = None,
    seed: int = 0,
    **optim: Any,
) -> TrialConfig:
    named = {f"t{place}": fields for place, fields in enumerate(triggers)}
    return TrialConfig.from_dict(
        {
            "strategy": {"triggers": named, "specialization": specialization},
            "init": init or {},
            "optim": {"lr": 0.01, "warmup_steps": 4, "batch_rows": 3} | optim,
            "seed": seed,
        }
    )


START, END, COMMA = trigger("start", 2), trigger("end", 2), trigger("delimiter", 2)
CONFIGS: dict[str, TrialConfig] = {
    "start": config([START], lr=0.02),
    "end": config([END], batch_rows=5, schedule="linear", seed=1),
    "comma": config([COMMA], init={"kind": "vocab"}, clip_norm=None, lr=0.003),
    "every": config([trigger("every", 1, k=4)], schedule="constant", weight_decay=0.1),
    "every ahead": config([trigger("every", 2, k=3, readout="latent")], batch_rows=1),
    "start and comma": config(
        [START, COMMA], specialization="shared", init={"kind": "text", "text": ","}, clip_norm=0.1
    ),
    "all four": config([END, trigger("every", 1, k=5), COMMA, trigger("start", 3)], batch_rows=2),
    "start again": config([START], lr=0.02, seed=9, warmup_steps=0),
}


@pytest.fixture
def engine(tiny_base: BaseModel) -> Engine:
    return Engine(tiny_base)


def join(
    engine: Engine, data: EncodedTask, *uids: str, states: dict[str, TrialState] | None = None
) -> Engine:
    for uid in uids:
        spec = TrialSpec(uid, CONFIGS[uid], BUDGET_STEPS, data_seed=5)
        engine.join(spec, data, (states or {}).get(uid))
    return engine


def come_and_go(engine: Engine, data: EncodedTask, *uids: str) -> None:
    """Four trials, and at each step another one in the place of the first."""
    join(engine, data, *uids[:4])
    for uid in uids[4:]:
        engine.step()
        join(engine, data, uid)
        engine.leave(engine.trials()[0])


def train(engine: Engine, steps: int) -> list[dict[str, float]]:
    return [engine.step() for _ in range(steps)]


def alone(base: BaseModel, data: EncodedTask, uid: str, **options: Any) -> Engine:
    return join(Engine(base, **options), data, uid)


def difference(found: Floats | torch.Tensor, expected: Floats | torch.Tensor) -> float:
    """The largest difference, relative to the largest value."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    if not expected.any():  # a step without any site has no gradient
        return float(np.abs(found).max())
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def latents(engine: Engine, uid: str) -> Floats:
    return engine.state(uid).latents


@pytest.fixture(scope="module")
def fused(tiny_base: BaseModel, tiny_data: EncodedTask) -> Engine:
    """All trials, trained together for 50 steps."""
    engine = join(Engine(tiny_base), tiny_data, *CONFIGS)
    train(engine, 50)
    return engine


def gradients_along(base: BaseModel, data: EncodedTask, steps: int) -> dict[str, float]:
    """Train all together and each alone; the largest difference of any step's gradient."""
    engine = join(Engine(base), data, *CONFIGS)
    single = {uid: alone(base, data, uid) for uid in CONFIGS}
    largest = dict.fromkeys(CONFIGS, 0.0)
    for _ in range(steps):
        together = dict(zip(CONFIGS, engine.gradients(list(CONFIGS)), strict=True))
        losses = engine.step()
        for uid, lone in single.items():
            (expected,) = lone.gradients([uid])
            largest[uid] = max(largest[uid], difference(together[uid], expected))
            assert lone.step()[uid] == pytest.approx(losses[uid], rel=1e-5)
    return largest


def test_gradients_of_the_first_steps(tiny_base: BaseModel, tiny_data: EncodedTask) -> None:
    for uid, largest in gradients_along(tiny_base, tiny_data, steps=4).items():
        assert largest < 1e-5, uid


def test_what_differs_is_rounding(tiny_base: BaseModel, tiny_data: EncodedTask) -> None:
    """In double precision nothing is left of it, however long the trials run."""
    exact = load_base(tiny_base.path, dtype="float64", device="cpu")
    for uid, largest in gradients_along(exact, tiny_data, steps=20).items():
        assert largest < 1e-6, uid  # the latents themselves stay float32


@pytest.mark.parametrize("uid", CONFIGS)
def test_gradients_after_50_steps_from_the_same_latents(
    fused: Engine, tiny_base: BaseModel, tiny_data: EncodedTask, uid: str
) -> None:
    lone = join(Engine(tiny_base), tiny_data, uid, states={uid: fused.state(uid)})
    (expected,) = lone.gradients([uid])
    assert expected.any()
    together = fused.gradients(list(CONFIGS))[list(CONFIGS).index(uid)]
    assert difference(together, expected) < 1e-5


@pytest.mark.parametrize("uid", CONFIGS)
def test_latents_after_50_steps(
    fused: Engine, tiny_base: BaseModel, tiny_data: EncodedTask, uid: str
) -> None:
    lone = alone(tiny_base, tiny_data, uid)
    start = latents(lone, uid)
    train(lone, 50)
    assert lone.step_of(uid) == fused.step_of(uid) == 50
    assert difference(latents(lone, uid), start) > 0.05, "nothing was trained"
    assert difference(latents(fused, uid), latents(lone, uid)) < 1e-5


def test_training_lowers_the_loss(tiny_base: BaseModel, tiny_data: EncodedTask) -> None:
    engine = join(Engine(tiny_base), tiny_data, "all four", "start")
    losses = train(engine, 40)
    for uid in engine.trials():
        first, last = (np.mean([loss[uid] for loss in part]) for part in (losses[:8], losses[-8:]))
        assert last < first


def test_micro_batches_change_nothing(tiny_base: BaseModel, tiny_data: EncodedTask) -> None:
    engines = [
        join(Engine(tiny_base, micro_batch_tokens=tokens), tiny_data, *CONFIGS)
        for tokens in (1, 90, 1_000_000)
    ]
    uids = list(CONFIGS)
    for _ in range(3):
        small, middle, large = (engine.gradients(uids) for engine in engines)
        for one, two, three in zip(small, middle, large, strict=True):
            assert difference(one, three) < 1e-5
            assert difference(two, three) < 1e-5
        losses = [engine.step() for engine in engines]
        assert losses[0] == pytest.approx(losses[2], rel=1e-5)
    metrics = [engine.evaluate(uids, ["val_ood"]) for engine in engines]
    for uid in uids:
        assert metrics[0][uid] == pytest.approx(metrics[2][uid])


def test_joining_and_leaving_changes_nothing_for_others(
    tiny_base: BaseModel, tiny_data: EncodedTask
) -> None:
    engine = join(Engine(tiny_base), tiny_data, "start", "comma", "every")
    train(engine, 5)
    join(engine, tiny_data, "all four", "end")
    train(engine, 5)
    engine.leave("start")
    engine.leave("all four")
    train(engine, 10)
    assert engine.trials() == ["comma", "every", "end"]
    for uid, steps in (("comma", 20), ("every", 20), ("end", 15)):
        lone = alone(tiny_base, tiny_data, uid)
        train(lone, steps)
        assert engine.step_of(uid) == steps
        assert difference(latents(engine, uid), latents(lone, uid)) < 1e-5
    with pytest.raises(UnknownTrialError, match="start is not in this engine"):
        engine.state("start")


def test_scoring_and_steps_turn_about_and_change_nothing(
    tiny_base: BaseModel, tiny_data: EncodedTask
) -> None:
    """One is scored in pieces while another trains, a third joins and a fourth leaves."""
    engine = Engine(tiny_base, micro_batch_tokens=90)
    join(engine, tiny_data, "start", "comma", "every")
    train(engine, 3)
    pieces, steps = engine.evaluation(["start"], ["val_id", "val_ood"]), 0
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            scores = end.value["start"]
            break
        engine.step(["comma"])
        steps += 1
        if steps == 1:
            join(engine, tiny_data, "end")
        if steps == 2:
            engine.leave("every")
    assert steps > 3
    for uid, count in (("start", 3), ("comma", 3 + steps)):
        lone = alone(tiny_base, tiny_data, uid)
        train(lone, count)
        assert difference(latents(engine, uid), latents(lone, uid)) < 1e-5
        if uid == "start":
            expected = lone.evaluate([uid], ["val_id", "val_ood"])[uid]
            assert scores == pytest.approx(expected, rel=1e-5)


def test_a_trial_that_leaves_while_it_is_scored_is_left_out(
    engine: Engine, tiny_data: EncodedTask
) -> None:
    join(engine, tiny_data, "start", "comma")
    expected = engine.evaluate(["comma"], ["val_id", "val_ood"])["comma"]
    pieces = engine.evaluation(["start", "comma"], ["val_id", "val_ood"])
    engine.leave("start")
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            assert end.value["comma"] == pytest.approx(expected, rel=1e-5)
            assert end.value["start"] == {}
            return


def test_joins_and_leaves_at_random_steps(tiny_base: BaseModel, tiny_data: EncodedTask) -> None:
    """Whoever is there, for however long, in micro-batches of any size."""
    draw = np.random.default_rng(3)
    engine, done = Engine(tiny_base), dict.fromkeys(CONFIGS, 0)
    states: dict[str, TrialState] = {}
    for _ in range(14):
        engine._budget.tokens = int(draw.choice([1, 64, 300, 4096]))
        for uid in draw.choice(list(CONFIGS), 3, replace=False):
            if uid in engine.trials():
                states[uid] = engine.state(uid)
                engine.leave(uid)
            else:
                join(engine, tiny_data, uid, states=states)
        for uid in engine.step():
            done[uid] += 1
    for uid, steps in done.items():
        lone = alone(tiny_base, tiny_data, uid)
        train(lone, steps)
        found = latents(engine, uid) if uid in engine.trials() else states[uid].latents
        assert difference(found, latents(lone, uid)) < 1e-5


def test_stepping_some_trials_leaves_the_others(engine: Engine, tiny_data: EncodedTask) -> None:
    join(engine, tiny_data, "start", "comma")
    before = engine.state("comma")
    assert set(engine.step(["start"])) == {"start"}
    after = engine.state("comma")
    assert (after.step, engine.step_of("start")) == (0, 1)
    for name in ("latents", "exp_avg", "exp_avg_sq"):
        assert np.array_equal(getattr(after, name), getattr(before, name))


@pytest.mark.parametrize("poison", [torch.nan, torch.inf, 1e30])
def test_no_gradient_crosses_trials(engine: Engine, tiny_data: EncodedTask, poison: float) -> None:
    """Whatever stands in one trial's latents, the others' gradients stay the same bits."""
    uids = list(CONFIGS)
    join(engine, tiny_data, *uids)
    clean = engine.gradients(uids)
    poisoned = uids.index("start and comma")
    with torch.no_grad():
        engine._trials[uids[poisoned]].latents.fill_(poison)
    dirty = engine.gradients(uids)
    for place, (before, after) in enumerate(zip(clean, dirty, strict=True)):
        assert torch.equal(before, after) == (place != poisoned), uids[place]


def test_the_loss_of_one_trial_does_not_reach_another(
    engine: Engine, tiny_data: EncodedTask
) -> None:
    """The same in the graph: one trial's rows alone, both trials' latents in the batch."""
    from trainable.batch import labelled_logits, prepare

    join(engine, tiny_data, "start", "all four")
    trials = [engine._trials["start"], engine._trials["all four"]]
    rows = [
        prepare(owner, row, trial.rules)
        for owner, trial in enumerate(trials)
        for row in tiny_data.rows("train")[:3]
    ]
    leaves = [trial.latents.detach().requires_grad_(True) for trial in trials]
    logits_JV, labels_J, owners_J = labelled_logits(engine.base.model, rows, leaves)
    nll_J = torch.nn.functional.cross_entropy(logits_JV, labels_J, reduction="none")
    for owner in (0, 1):
        gradients = torch.autograd.grad(nll_J[owners_J == owner].sum(), leaves, retain_graph=True)
        assert float(gradients[owner].abs().max()) > 0
        assert torch.count_nonzero(gradients[1 - owner]) == 0


@pytest.mark.filterwarnings("error")
def test_a_trial_that_is_not_finite_fails_alone(
    engine: Engine, tiny_base: BaseModel, tiny_data: EncodedTask
) -> None:
    join(engine, tiny_data, "start", "comma")
    train(engine, 3)
    with torch.no_grad():
        engine._trials["start"].latents[0, 0] = torch.nan
    train(engine, 4)
    with pytest.raises(NumericError, match=r"trial start .* step 4.*optim\.lr=0\.02"):
        engine.raise_failure("start")
    engine.raise_failure("comma")
    assert engine.step_of("start") == 3
    lone = alone(tiny_base, tiny_data, "comma")
    train(lone, 7)
    assert difference(latents(engine, "comma"), latents(lone, "comma")) < 1e-5


def test_the_frozen_weights_are_the_same_bits(
    engine: Engine, tiny_base: BaseModel, tiny_data: EncodedTask
) -> None:
    before = {name: values.clone() for name, values in tiny_base.model.state_dict().items()}
    join(engine, tiny_data, *CONFIGS)
    train(engine, 3)
    engine.evaluate(list(CONFIGS), ["val_id"])
    after = tiny_base.model.state_dict()
    assert all(torch.equal(values, after[name]) for name, values in before.items())
    assert all(p.grad is None for p in tiny_base.model.parameters())
    assert not any(p.requires_grad for p in tiny_base.model.parameters())


def test_export_and_restore_goes_on_where_it_stopped(
    fused: Engine, tiny_base: BaseModel, tiny_data: EncodedTask
) -> None:
    first = join(Engine(tiny_base), tiny_data, *CONFIGS)
    train(first, 23)
    states = {uid: TrialState.from_bytes(first.state(uid).to_bytes()) for uid in CONFIGS}
    second = join(Engine(tiny_base), tiny_data, *CONFIGS, states=states)
    train(second, 27)
    for uid in CONFIGS:
        assert second.step_of(uid) == 50
        resumed, whole = second.state(uid), fused.state(uid)
        for name in ("latents", "exp_avg", "exp_avg_sq"):
            assert difference(getattr(resumed, name), getattr(whole, name)) < 1e-6, (uid, name)


def test_a_state_from_before_the_first_step_is_a_fresh_start(
    tiny_base: BaseModel, tiny_data: EncodedTask
) -> None:
    fresh = alone(tiny_base, tiny_data, "comma")
    again = join(Engine(tiny_base), tiny_data, "comma", states={"comma": fresh.state("comma")})
    train(fresh, 3)
    train(again, 3)
    assert np.array_equal(latents(fresh, "comma"), latents(again, "comma"))


def test_a_restored_state_is_a_copy(engine: Engine, tiny_data: EncodedTask) -> None:
    join(engine, tiny_data, "start")
    train(engine, 2)
    state = engine.state("start")
    kept = {name: getattr(state, name).copy() for name in ("latents", "exp_avg", "exp_avg_sq")}
    other = join(Engine(engine.base), tiny_data, "start", states={"start": state})
    train(engine, 2)
    train(other, 2)
    for name, values in kept.items():
        assert np.array_equal(getattr(state, name), values)


def test_a_taken_uid_is_refused(engine: Engine, tiny_data: EncodedTask) -> None:
    join(engine, tiny_data, "start")
    with pytest.raises(ValueError, match="start is already in this engine"):
        join(engine, tiny_data, "start")


def test_a_state_of_another_strategy_is_refused(engine: Engine, tiny_data: EncodedTask) -> None:
    join(engine, tiny_data, "start", "every")
    state = engine.state("every")  # one latent would broadcast over the two of `start`
    engine.leave("start")
    with pytest.raises(ArtifactError, match=r"trial start .*shape \[2, 32\].*\[1, 32\]"):
        join(engine, tiny_data, "start", states={"start": state})
    assert engine.trials() == ["every"]


def test_trials_without_latents_count_steps_and_train_nothing(
    engine: Engine, tiny_data: EncodedTask
) -> None:
    engine.join(TrialSpec("none", config([]), BUDGET_STEPS), tiny_data)
    join(engine, tiny_data, "start")
    assert set(engine.step()) == {"start"}
    assert engine.step_of("none") == 1
    assert TrialState.from_bytes(engine.state("none").to_bytes()).latents.shape == (0, 32)
    metrics = engine.evaluate(["none"], ["val_id"])["none"]
    assert metrics["cost/extra_tokens_pct"] == 0.0


def test_a_batch_without_any_site_is_legal(engine: Engine, tiny_data: EncodedTask) -> None:
    semicolon = config([trigger("delimiter", 1, pattern=";")])
    engine.join(TrialSpec("nowhere", semicolon, BUDGET_STEPS), tiny_data)
    before = latents(engine, "nowhere")
    losses = train(engine, 2)
    assert np.isfinite(losses[0]["nowhere"])
    engine.raise_failure("nowhere")
    assert np.array_equal(latents(engine, "nowhere"), before)
