"""The table of abuses: every row has a test, and every test that it names is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()
TESTS = {
    name
    for path in Path(__file__).parent.glob("test_*.py")
    for name in re.findall(r"^def (test_\w+)", path.read_text(), flags=re.MULTILINE)
}


def test_every_abuse_has_a_row_with_a_test() -> None:
    rows = dict(re.findall(r"^\| (A\d+) \|(.*)\|$", PAGE, flags=re.MULTILINE))
    assert set(rows) == {f"A{number}" for number in range(1, 21)}
    for number in range(1, 21):
        own = [name for name in TESTS if name.startswith(f"test_a{number:02d}_")]
        assert own, number
        named = re.findall(r"`(test_\w+(?:\.py)?)`", rows[f"A{number}"])
        assert named, number


def test_every_test_that_is_named_is_there() -> None:
    for name in re.findall(r"`(test_\w+)`", PAGE):
        assert name in TESTS, name
    for path in re.findall(r"`((?:tests/\w+/)?test_\w+\.py)`", PAGE):
        found = ROOT / path if "/" in path else Path(__file__).parent / path
        assert found.exists(), path
