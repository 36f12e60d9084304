"""The page of confirmed searches: both rankings, and that it is the one of the stored runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from benchmarks import confirmed
from benchmarks.confirmed import PAGE, TASKS, curse, keep, page, rankings, section, stored

CHAMPION = "b"


def arm(key: str, rank: int | None, searched: float | None, means: Sequence[float]) -> Any:
    scores = [
        {"metric": f"test_ood/exact_match/{at}", "mean": mean, "low": mean - 0.1, "high": mean}
        for at, mean in zip((8, 12, 16), means, strict=True)
    ]
    return {
        "key": key,
        "strategy": f"start{key}",
        "rank": rank,
        "search_score": searched,
        "control": None if rank else "nothing inserted",
        "latents_per_row": 2.0,
        "scores": scores,
        "uids": ["left out"],
    }


def status(confirmation: bool = True) -> dict[str, Any]:
    record = {
        "objective": "val_ood/exact_match",
        "seeds": 5,
        "steps": 9,
        "verdict": ["better\nthan none"],
        "notes": [],
        "champion": CHAMPION,
        "arms": [
            arm("a", 1, 0.9, [0.5, 0.5, 0.0]),
            arm("b", 2, 0.8, [0.7, 0.9, 0.0]),
            arm("n", None, None, [0.1, 0.1, 0.1]),
        ],
    }
    metrics = {"val_ood/exact_match": 0.5, "val_ood/exact_match/8": 1, "val_ood/exact_match/12": 0}
    return {
        "name": "full-generation",
        "objective": "val_ood/exact_match",
        "trials": [{"status": "complete", "metrics": metrics}, {"status": "pruned", "metrics": {}}],
        "confirmation": record if confirmation else None,
    }


@pytest.fixture
def kept(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(confirmed, "RESULTS", tmp_path)
    keep("generation", status())
    return json.loads((tmp_path / "full-generation.json").read_text())


def test_both_rankings_are_of_the_same_distances(kept: Any) -> None:
    first, second = rankings(kept)
    assert (first.searched, first.confirmed) == (0.9, 0.5)
    assert second.searched == 0.8
    assert second.confirmed == pytest.approx(0.8)


def test_the_curse_in_words(kept: Any) -> None:
    words = curse(rankings(kept))
    assert "is not the best confirmed" in words
    assert "was +0.400 off" in words
    assert "all 2 +0.200 on average" in words


def test_a_section_has_the_verdict_both_places_and_every_arm(kept: Any) -> None:
    text = "\n".join(section("generation", kept))
    assert "- better than none" in text
    assert "| no. 1 | `starta` | 0.900 | 0.500 | no. 2 | -0.400 |" in text
    assert "| `startb` | no. 2, **champion** | 2.0 | 0.70 [0.60, 0.70] |" in text
    assert "| `startn` | control: nothing inserted |" in text
    assert "1 complete, 1 pruned" in text


def test_an_unconfirmed_search_is_refused() -> None:
    with pytest.raises(ValueError, match="is not confirmed"):
        keep("generation", status(confirmation=False))


def test_the_page_is_of_the_stored_runs() -> None:
    found = {t: json.loads(stored(t).read_text()) for t in TASKS if stored(t).exists()}
    assert found, "no search is stored"
    assert PAGE.read_text() == page(found)
