"""The vectorised optimiser: one step of 64 trials' latents, over a loop of torch's AdamW.

Both sides clip each trial's gradient by its own norm; the model is not part of it.
"""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.finding import finding
from benchmarks.setting import Setting
from benchmarks.timing import in_turn, ratios
from trainable.base_model.loading import BaseModel
from trainable.latent_adamw import LatentAdamW, StepSettings

TRIALS, LATENTS = 64, 4


def optimising(base: BaseModel, setting: Setting) -> dict[str, Any]:
    """Time both sides."""
    width, device = base.model.config.hidden_size, base.model.device
    uids = [str(place) for place in range(TRIALS)]
    ours = LatentAdamW(width, device)
    for uid in uids:
        ours.add(uid, torch.zeros(3, LATENTS, width))
    gradient_KD = torch.randn(TRIALS * LATENTS, width, device=device)
    settings = [StepSettings(lr=0.01, weight_decay=0.0, clip_norm=1.0, step=9)] * TRIALS
    losses_T = torch.zeros(TRIALS, device=device)
    loose = [torch.zeros(LATENTS, width, device=device, requires_grad=True) for _ in uids]
    optimizers = [torch.optim.AdamW([latents], lr=0.01) for latents in loose]

    def vectorised() -> None:
        for _ in range(20):
            table = ours.table(uids)
            table.latents_KD.grad = gradient_KD
            ours.step(uids, table, settings, losses_T)

    def loop() -> None:
        for _ in range(20):
            for place, latents in enumerate(loose):
                latents.grad = gradient_KD[place * LATENTS : (place + 1) * LATENTS].clone()
                torch.nn.utils.clip_grad_norm_([latents], 1.0)
                optimizers[place].step()

    spent = in_turn({"loop": loop, "vectorised": vectorised}, setting.repeats)
    case = f"optimiser step of {TRIALS} trials, {LATENTS} latents each, the model not counted"
    return finding(case, ratios(spent["loop"], spent["vectorised"]), lever="vectorised optimiser")
