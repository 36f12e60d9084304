"""What stands behind NAME@."""

from __future__ import annotations

import pytest

from orchestrator.choice import Choice, choose
from orchestrator.errors import SearchNotFoundError


@pytest.mark.parametrize(
    ("name", "options", "choice"),
    [
        ("quick", {}, Choice(name="quick")),
        ("quick@champion", {}, Choice(name="quick", alias="champion")),
        ("quick@v12", {}, Choice(name="quick", version=12)),
        ("quick@trial-7", {}, Choice(name="quick", trial=7)),
        ("quick@trial-7", {"trial": 7}, Choice(name="quick", trial=7)),
        ("quick", {"version": 3}, Choice(name="quick", version=3)),
        ("quick", {"alias": "mine"}, Choice(name="quick", alias="mine")),
        ("quick@trial-x", {}, Choice(name="quick", alias="trial-x")),
    ],
)
def test_a_choice_is_read(name: str, options: dict[str, int | str], choice: Choice) -> None:
    assert choose(name, **options) == choice  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("quick@v1", {"trial": 1}, "contradict"),
        ("quick@champion", {"alias": "candidate"}, "contradict"),
        ("quick", {"version": 1, "trial": 1}, "quick version 1 and trial 1 of quick"),
        ("Quick", {}, "no search name"),
        ("quick@a/b", {}, "no alias"),
        ("quick", {"alias": "v1"}, "a version is v3"),
        ("quick", {"alias": "trial-1"}, "a trial is trial-7"),
        ("quick", {"alias": "latest"}, "no alias"),
    ],
)
def test_what_leads_nowhere_is_refused(
    name: str, options: dict[str, int | str], message: str
) -> None:
    with pytest.raises(SearchNotFoundError, match=message):
        choose(name, **options)  # type: ignore[arg-type]
