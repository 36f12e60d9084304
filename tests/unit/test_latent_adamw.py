"""One optimiser for all trials computes what each trial's own torch.optim.AdamW would."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trainable.latent_adamw import LatentAdamW, StepSettings
from trainable.latent_table import LatentTable

WIDTH = 5
TRIALS: dict[str, dict[str, Any]] = {
    "plain": {"rows": 1, "lr": 0.02, "weight_decay": 0.0, "clip_norm": None},
    "clipped": {"rows": 4, "lr": 0.01, "weight_decay": 0.0, "clip_norm": 0.1},
    "decayed": {"rows": 3, "lr": 0.03, "weight_decay": 0.2, "clip_norm": 50.0},
    "no latents": {"rows": 0, "lr": 0.03, "weight_decay": 0.2, "clip_norm": 1.0},
}


def rows(uid: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(list(TRIALS).index(uid))
    values_LD = torch.randn(TRIALS[uid]["rows"], WIDTH, generator=generator)
    return torch.stack([values_LD, torch.zeros_like(values_LD), torch.zeros_like(values_LD)])


def settings(uid: str, step: int) -> StepSettings:
    trial = TRIALS[uid]
    return StepSettings(trial["lr"] / step, trial["weight_decay"], trial["clip_norm"], step)


@pytest.fixture
def adamw() -> LatentAdamW:
    adamw = LatentAdamW(WIDTH, torch.device("cpu"))
    for uid in TRIALS:
        adamw.add(uid, rows(uid))
    return adamw


def take_step(
    adamw: LatentAdamW, steps: dict[str, int], gradients: dict[str, torch.Tensor]
) -> torch.Tensor:
    """A step of the trials in `steps`, which says which step it is for each."""
    uids = list(steps)
    table = adamw.table(uids)
    table.latents_KD.grad = torch.cat([gradients[uid] for uid in uids])
    numbers = [settings(uid, step) for uid, step in steps.items()]
    return adamw.step(uids, table, numbers, torch.ones(len(uids)))


def test_each_trial_gets_torch_s_own_steps(adamw: LatentAdamW) -> None:
    """Different numbers of steps and rows, in another order than they joined in."""
    generator = torch.Generator().manual_seed(9)
    parameters = {uid: rows(uid)[0].requires_grad_(True) for uid in TRIALS}
    optimizers = {
        uid: torch.optim.AdamW(
            [parameters[uid]], lr=trial["lr"], weight_decay=trial["weight_decay"]
        )
        for uid, trial in TRIALS.items()
    }
    steps = dict.fromkeys(TRIALS, 0)
    for turn in range(30):
        uids = [uid for place, uid in enumerate(reversed(TRIALS)) if (turn + place) % 4]
        gradients = {}
        for uid in uids:
            steps[uid] += 1
            parameter, optimizer = parameters[uid], optimizers[uid]
            gradients[uid] = torch.randn(parameter.shape, generator=generator)
            parameter.grad = gradients[uid].clone()
            if (clip_norm := TRIALS[uid]["clip_norm"]) is not None:
                torch.nn.utils.clip_grad_norm_([parameter], clip_norm)
            optimizer.param_groups[0]["lr"] = settings(uid, steps[uid]).lr
            optimizer.step()
        assert take_step(adamw, {uid: steps[uid] for uid in uids}, gradients).all()
    for uid in TRIALS:
        moments = optimizers[uid].state[parameters[uid]]
        expected = [parameters[uid].detach(), moments["exp_avg"], moments["exp_avg_sq"]]
        torch.testing.assert_close(adamw.rows(uid), torch.stack(expected), rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
@pytest.mark.parametrize("where", ["gradient", "loss"])
def test_one_that_is_not_finite_keeps_everything(
    adamw: LatentAdamW, wrong: float, where: str
) -> None:
    before = {uid: adamw.rows(uid).clone() for uid in TRIALS}
    uids = list(TRIALS)
    table, losses_T = adamw.table(uids), torch.ones(len(uids))
    table.latents_KD.grad = torch.ones_like(table.latents_KD)
    if where == "loss":
        losses_T[1] = wrong
    else:
        table.latents_KD.grad[2, 0] = wrong  # of "clipped", the second
    finite_T = adamw.step(uids, table, [settings(uid, 1) for uid in uids], losses_T)
    assert finite_T.tolist() == [True, False, True, True]
    assert torch.equal(adamw.rows("clipped"), before["clipped"])
    for uid in ("plain", "decayed"):
        assert (adamw.rows(uid)[0] != before[uid][0]).all()


def test_joining_and_leaving_moves_nobody_s_rows(adamw: LatentAdamW) -> None:
    adamw.remove("clipped")
    adamw.add("clipped again", rows("clipped"))
    for uid in ("plain", "decayed"):
        assert torch.equal(adamw.rows(uid), rows(uid))
    assert torch.equal(adamw.rows("clipped again"), rows("clipped"))
    assert adamw.bytes == 3 * (1 + 4 + 3) * WIDTH * 4
    with pytest.raises(KeyError):
        adamw.rows("clipped")


def test_a_table_is_a_copy_until_the_step(adamw: LatentAdamW) -> None:
    table = adamw.table(["decayed", "plain"])
    assert torch.equal(table[0], rows("decayed")[0])
    assert [len(part) for part in table] == [3, 1]
    assert torch.equal(table[-1], table[1])
    with torch.no_grad():
        table.latents_KD.zero_()
    assert torch.equal(adamw.rows("plain"), rows("plain"))
    assert LatentTable.of(table, torch.device("cpu")) is table
