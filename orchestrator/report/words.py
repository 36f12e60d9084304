"""What stands beside each figure: what it shows, how to read it, what not to conclude."""

from __future__ import annotations

from types import MappingProxyType
from typing import NamedTuple


class Words(NamedTuple):
    """Plain words for one figure."""

    title: str
    shows: str
    read: str
    not_conclude: str


FIGURES = MappingProxyType(
    {
        "scatter": Words(
            "In and out of distribution",
            "Each trial's share of wholly right answers on the lengths of training (across) and on "
            "lengths that training never had (up).",
            "On the dashed line a trial is as good outside as inside. What matters for "
            "generalisation is height, not distance to the right.",
            "Trials that were cut early are drawn where they were cut: a low grey point is a trial "
            "that was not trained on, not a strategy that cannot. Both axes are validation data.",
        ),
        "cost": Words(
            "Score against extra tokens",
            "What each trial reaches, against the latents that it inserts per 100 verbal tokens of "
            "val_id.",
            "The green line is the front: the best score that so many tokens buy, among "
            "trials with the full budget. Choose where it bends, or where your token budget ends.",
            "Extra tokens are not extra seconds: a latent is prefilled, never sampled. And the "
            "front is made of single seeds, so that small steps in it may be luck.",
        ),
        "importance": Words(
            "Which axes mattered",
            "How much of the difference between good and all other trials each axis of the space "
            "explains, as Optuna measures it (PED-ANOVA, which counts axes that only some trials "
            "have as well).",
            "Longer is more. One panel looks at all trials early, another at those that were never "
            "cut, at the end. Believe what both agree on.",
            "An axis that matters little here may matter elsewhere in its range, and importance "
            "does not tell which value is good: see the next figure. With few trials it is noise.",
        ),
        "effects": Words(
            "What each axis does",
            "The mean score of the trials that share a value of an axis (diamond), with a 95 % "
            "bootstrap interval over trials (line) and the trials themselves (grey dots).",
            "Compare diamonds within one panel; intervals that do not overlap are a difference "
            "worth trusting. A value with fewer than three trials has no interval.",
            "It is a mean over all other axes as the sampler happened to try them, not the effect "
            "of changing that axis alone: a good value may have been tried with good company.",
        ),
        "curves": Words(
            "Learning curves",
            "The objective where it was measured, at each rung (left), and the training loss "
            "(right), for each trial.",
            "Lines that end early were cut. Look for curves that still climb at the end: a larger "
            "budget.steps may change the order.",
            "A lower training loss is no better strategy: more latents fit the training rows more "
            "closely and may generalise worse.",
        ),
        "timeline": Words(
            "When trials ran and were cut",
            "Each trial as a bar from its start to its end, in the order in which they were asked, "
            "with the steps that it was given.",
            "Short grey bars are what early stopping saved. A trial that was interrupted has "
            "several bars.",
            "A bar's length is time beside other trials in one engine, not the cost of that trial "
            "alone.",
        ),
        "attention": Words(
            "What the winner's tokens look at",
            "The share of attention that each verbal token pays to each site of latents, as a mean "
            "over layers and heads, for every layer, and by distance.",
            "Bright is much. The dashed orange line is what a token would pay if it looked at "
            "everything alike: above it latents are read, below it they are passed over.",
            "One row and one trial: attention shows where information may flow, not that it does, "
            "and not why the answer is right.",
        ),
    }
)
