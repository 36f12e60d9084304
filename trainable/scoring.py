"""Scores of many trials, a piece at a time: teacher-forced, and of what they write.

Each piece is one micro-batch or one step of decoding, so that whoever asks can do something else
between two: the engine's loop takes training steps with the trials that are not being scored.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedModel

from trainable.batch import PreparedRow, prepare
from trainable.data import Split
from trainable.decoding import LatentLM
from trainable.errors import RowMemoryError
from trainable.evaluation import answer_scoring, forced_batches
from trainable.memory import TokenBudget, too_long_message
from trainable.prefix_plan import Sharing, SplitRow
from trainable.resident import ResidentTrial

_ROWS_AT_ONCE = 4096  # laid out at a time, so that a large split needs no more memory


@dataclass
class Tally:
    """What is known of one trial's rows of a split."""

    scores: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    latents: int = 0
    tokens: int = 0

    def add(self, row: PreparedRow, metrics: dict[str, float]) -> None:
        """Count one row in."""
        self.scores.append((row.row.distance, metrics))
        self.latents += row.layout.latent_count
        self.tokens += len(row.row.ids)

    def costs(self) -> dict[str, float]:
        """Latents per hundred verbal tokens."""
        if not self.tokens:  # of a trial none of whose rows was scored
            return {}
        return {"cost/extra_tokens_pct": 100.0 * self.latents / self.tokens}


def score_split(
    model: PreTrainedModel,
    trials: Sequence[ResidentTrial],
    split: Split,
    budget: TokenBudget,
    sharing: Sharing = "auto",
) -> Generator[None, None, list[Tally]]:
    """Score trials on a split, all of them in the same batches; yields after each.

    A trial with a row that does not fit into the memory fails alone.
    """
    tallies = [Tally() for _ in trials]
    latents = [trial.latents.detach().clone() for trial in trials]  # whoever joins meanwhile

    def refuse(split: SplitRow) -> None:
        trial = trials[split.owner]
        trial.failure = RowMemoryError(f"trial {trial.uid}: {too_long_message(split.row)}")

    for rows in _prepared(trials, split):
        for batch in forced_batches(model, rows, latents, budget, refuse, sharing):
            for row, right_N, nll_N in batch:
                tallies[row.owner].add(row, trials[row.owner].data.score(row.row, right_N, nll_N))
            yield
    return tallies


def score_answers(
    trials: Sequence[ResidentTrial],
    lms: Mapping[str, LatentLM],
    tallies: Sequence[Tally],
    split: Split,
    holds: Callable[[ResidentTrial], bool],
) -> Generator[None, None, None]:
    """Score what each trial's latents make the model write by itself, judged as text.

    Args:
        lms: uid to the frozen model with the trial's latents; of those with answer metrics.
        tallies: one per trial; the scores are added there.
        holds: whether a trial is still inside; nothing more is written for one that has left.
    """
    asked = [place for place, trial in enumerate(trials) if trial.data.answer_metrics]
    if not asked:
        return
    scores = yield from answer_scoring(
        [lms[trials[place].uid] for place in asked],
        [trials[place].data for place in asked],
        split,
        wanted=lambda owner: holds(trials[asked[owner]]),
    )
    for place, found in zip(asked, scores, strict=True):
        if isinstance(found, Exception):  # another trial's answers may be fine
            trials[place].failure = found
        else:
            tallies[place].scores += found


def _prepared(trials: Sequence[ResidentTrial], split: Split) -> Iterator[list[PreparedRow]]:
    """A split's rows of all trials, laid out, some thousands at a time."""
    rows = [trial.data.rows(split) for trial in trials]
    size = max(1, _ROWS_AT_ONCE // max(1, len(trials)))
    for begin in range(0, max(map(len, rows), default=0), size):
        yield [
            prepare(owner, row, trial.rules)
            for owner, trial in enumerate(trials)
            for row in rows[owner][begin : begin + size]
        ]
