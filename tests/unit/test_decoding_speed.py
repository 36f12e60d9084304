"""What decoding costs in time, measured where a search goes by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.config import load_search
from orchestrator.errors import ConfigError
from tests.decoding_reference import artifact_of
from trainable import decoding_speed
from trainable.base_model.loading import BaseModel
from trainable.data import EncodedTask
from trainable.decoding import LatentLM
from trainable.engine import Engine, TrialSpec
from trainable.metrics import DECODING_TIME, direction
from trainable.strategy import InsertionStrategy
from trainable.trial import TrialConfig

START = InsertionStrategy.from_dict({"triggers": {"start": {"kind": "start", "m": 2}}})
SEARCH = """
name: s
task: {kind: generation}
space: quick
budget: {trials: 2}
"""


def test_an_answer_of_fixed_length_is_timed(
    tiny_base: BaseModel, tiny_data: EncodedTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that goes on one second a token: 1000 ms, whatever the model writes."""
    written: list[int] = []
    clock = iter(range(100))
    generate = LatentLM.generate

    def counted(lm: LatentLM, **options: Any) -> Any:
        found = generate(lm, **options)
        written.append(found.shape[1] - options["input_ids"].shape[1])
        return found

    monkeypatch.setattr(LatentLM, "generate", counted)
    monkeypatch.setattr(decoding_speed, "_now", lambda _: float(next(clock)))
    lm = LatentLM.build(tiny_base.model, tiny_base.tokenizer, artifact_of(tiny_base, START))
    rows = tiny_data.rows("val_id")
    found = decoding_speed.ms_per_token(lm, rows)
    wanted = [min(16, len(row.ids) - row.query_length) for row in rows[:3]]
    assert written == [wanted[0], *wanted]
    assert found == pytest.approx(1000 / sorted(wanted)[1])


def test_no_query_no_time(tiny_base: BaseModel) -> None:
    lm = LatentLM.build(tiny_base.model, tiny_base.tokenizer, artifact_of(tiny_base, START))
    assert decoding_speed.ms_per_token(lm, []) is None


def test_it_is_scored_once_and_only_where_it_is_asked_for(
    tiny_base: BaseModel, tiny_data: EncodedTask
) -> None:
    engine = Engine(tiny_base)
    for uid, asked in (("timed", True), ("plain", False)):
        config = TrialConfig(strategy=START)
        engine.join(TrialSpec(uid, config, 1, times_decoding=asked), tiny_data)
    first = engine.evaluate(engine.trials(), ["val_id"])
    again = engine.evaluate(engine.trials(), ["val_id"])
    assert DECODING_TIME not in first["plain"]
    assert first["timed"][DECODING_TIME] == again["timed"][DECODING_TIME] > 0
    assert direction(DECODING_TIME) == "minimize"


def test_it_may_be_a_tradeoff_and_no_limit(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(SEARCH + f"tradeoffs: [{DECODING_TIME}]\n")
    assert load_search(path).tradeoffs == (DECODING_TIME,)
    path.write_text(SEARCH + f"limits: {{{DECODING_TIME}: 5}}\n")
    with pytest.raises(ConfigError, match="known before a trial is trained"):
        load_search(path)
