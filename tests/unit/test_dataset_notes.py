"""Datasets as MLflow lists them."""

from __future__ import annotations

from typing import Any

from orchestrator.dataset_notes import dataset_notes


def payload(seed: int = 0, digest: str | None = None) -> dict[str, Any]:
    config = {"task": {"kind": "records"}, "data": {"seed": seed}}
    data: dict[str, Any] = {"rows": {"train": 10, "val_id": 2, "test_ood": 3}}
    return {"config": config, "data": data | {"sha256": {"train": {"a.jsonl": digest}}}}


def test_each_split_is_a_dataset_told_apart_by_what_decides_its_rows() -> None:
    notes = dataset_notes("s", payload())
    assert [(n.name, n.context) for n in notes] == [
        ("s/train", "training"),
        ("s/val_id", "validation"),
        ("s/test_ood", "test"),
    ]
    digests = [note.digest for note in notes]
    assert len(set(digests)) == 3 and all(len(digest) <= 36 for digest in digests)
    assert [note.digest for note in dataset_notes("s", payload())] == digests


def test_another_seed_or_another_file_is_another_dataset() -> None:
    first, seeded = dataset_notes("s", payload()), dataset_notes("s", payload(seed=1))
    assert all(a.digest != b.digest for a, b in zip(first, seeded, strict=True))
    changed = dataset_notes("s", payload(digest="3f"))
    assert [a.digest == b.digest for a, b in zip(first, changed, strict=True)] == [
        False,
        True,
        True,
    ]


def test_a_search_whose_rows_are_unknown_lists_none() -> None:
    assert dataset_notes("s", {"config": {}}) == []
