"""YAML as data: scalars, lines, and everything that is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import ConfigError
from orchestrator.yaml_source import MAX_BYTES, dump_yaml, parse_yaml, read_yaml


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "search.yaml")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-012", -12),
        ("0x1F", 31),
        ("0o17", 15),
        ("1.5", 1.5),
        (".5e3", 500.0),
        ("1e-3", 0.001),
        ("-.inf", -math.inf),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("", None),
        ("no", "no"),
        ("on", "on"),
        ("1_000", "1_000"),
        ("2026-01-01", "2026-01-01"),
        ("12:30:00", "12:30:00"),
        ("'1'", "1"),
        ('"a\\tb"', "a\tb"),
        ("|\n    one\n    two\n", "one\ntwo\n"),
        ("[1, [], {}]", [1, [], {}]),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_values_follow_the_core_schema(text: str, value: object) -> None:
    read = parse_yaml(f"key: {text}", "search.yaml")
    assert read.data == {"key": value}
    assert type(read.data["key"]) is type(value)
    assert read.problems == []


def test_not_a_number_is_read() -> None:
    assert math.isnan(parse_yaml("x: .nan", "search.yaml").data["x"])


def test_keys_are_texts_as_written() -> None:
    assert parse_yaml("{1: a, true: b, ~: c, on: d}", "search.yaml").data == {
        "1": "a",
        "true": "b",
        "~": "c",
        "on": "d",
    }


def test_every_value_has_its_line() -> None:
    read = parse_yaml("# first\na:\n  b: 1\n  c:\n    - 2\n    - {d: 3}\n", "search.yaml")
    assert read.lines[("a",)] == 2
    assert read.lines[("a", "b")] == 3
    assert read.lines[("a", "c", 0)] == 5
    assert read.lines[("a", "c", 1, "d")] == 6


def test_duplicate_keys_are_refused_with_line_and_column() -> None:
    read = parse_yaml("a: 1\nb: {c: 1, c: 2}\n  \na: {d: 1, d: 2}\n", "search.yaml")
    assert [str(problem) for problem in read.problems] == [
        "b.c (line 2, column 11): the key is there twice, first on line 2; keep one of them",
        "a (line 4, column 1): the key is there twice, first on line 1; keep one of them",
        "a.d (line 4, column 11): the key is there twice, first on line 4; keep one of them",
    ]
    assert read.data == {"a": 1, "b": {"c": 1}}


def test_tags_construct_nothing() -> None:
    read = parse_yaml("a: !!python/object/apply:os.system [x]\nb: !local 3\nc: !!str 4", "s")
    assert read.data == {"a": ["x"], "b": 3, "c": 4}
    assert [problem.path for problem in read.problems] == ["a", "b", "c"]
    assert "the tag tag:yaml.org,2002:python/object/apply:os.system is not read" in str(
        read.problems[0]
    )


def test_anchors_and_aliases_are_refused_so_that_nothing_multiplies() -> None:
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    read = parse_yaml("\n".join(lines), "search.yaml")
    assert read.data["a29"] == [None] * 9
    assert ("a29", 8) in read.unread
    assert len(read.problems) == 30 + 29 * 9
    assert "the anchor &a0 is not read" in str(read.problems[0])
    assert "the alias *a0 is not read; repeat the value" in str(read.problems[2])


def test_merge_keys_are_ordinary_keys() -> None:
    assert parse_yaml("<<: {a: 1}", "search.yaml").data == {"<<": {"a": 1}}


def test_a_key_that_is_no_text_is_refused() -> None:
    read = parse_yaml("? [1, 2]\n: 3\n", "search.yaml")
    (problem,) = read.problems
    assert "(line 1, column 3): a key must be a plain text" in str(problem)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1\nb: 2", r"search.yaml: (line 2, column 2): no valid YAML: while parsing a flow"),
        ("a: b: c", "search.yaml: (line 1, column 5): no valid YAML: mapping values"),
        ("\tb: 1", "search.yaml: (line 1, column 1): no valid YAML"),
        ("a: 1\n---\nb: 2", "search.yaml: (line 2, column 1): it holds several documents"),
        ("[" * 200, "search.yaml: (line 1, column 52): it is nested deeper than 50 levels"),
        ("a: \x00", "search.yaml: no valid YAML: unacceptable character #x0000"),
    ],
)
def test_broken_text_is_one_clear_line(text: str, message: str) -> None:
    assert refused(text).startswith(message)


def test_an_empty_document_is_none() -> None:
    assert parse_yaml("", "search.yaml").data is None
    assert parse_yaml("# a comment\n", "search.yaml").data is None


# --- files


def refused_file(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        read_yaml(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_unreadable_files_are_one_clear_line(tmp_path: Path) -> None:
    file = tmp_path / "search.yaml"
    assert refused_file(file).startswith(f"{file}: there is no such file; check the path")
    assert refused_file(tmp_path).startswith(f"{tmp_path}: it is a folder")
    file.write_bytes(b"name: caf\xe9")
    assert refused_file(file).startswith(f"{file}: (byte 9): it is no UTF-8 text: b'\\xe9'")
    assert "it cannot be read: embedded null byte" in refused_file(Path("a\0b"))
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert "it cannot be read: " in refused_file(loop)


def test_a_file_may_have_one_megabyte_and_no_more(tmp_path: Path) -> None:
    file = tmp_path / "search.yaml"
    body = "a: 1\n#"
    file.write_text(body + "x" * (MAX_BYTES - len(body)))
    assert read_yaml(file).data == {"a": 1}
    file.write_text(body + "x" * (MAX_BYTES - len(body) + 1))
    assert "it is larger than 1000000 bytes" in refused_file(file)


def test_an_endless_file_is_not_read_to_its_end() -> None:
    assert "it is larger than" in refused_file(Path("/dev/zero"))


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    file = tmp_path / "search.yaml"
    file.write_bytes("a: é".encode("utf-8-sig"))
    assert read_yaml(file).data == {"a": "é"}


# --- writing


NOT_PLAIN = ["1", "1e5", ".5e3", "1.", "null", "~", "", " a ", "2026-01-01", "a: b", "# c", "- a"]
SIGNS = ["=", "<<", "*a", "&a", "!t", ",", "'", '"', "\\", "\x85\x00\n", "line\nline", "é", "no"]


@pytest.mark.parametrize("value", [*NOT_PLAIN, *SIGNS, "x" * 500])
def test_written_texts_come_back(value: str) -> None:
    data: dict[str, Any] = {"a": value, "b": [value], "c": {value: value}}
    assert parse_yaml(dump_yaml(data), "dump").data == data


def test_written_data_has_no_anchors_and_keeps_its_order() -> None:
    shared = {"choice": [1, 2]}
    text = dump_yaml({"z": shared, "a": shared, "n": None, "f": 1e-5, "t": True, "e": {}, "l": []})
    read = parse_yaml(text, "dump")
    assert read.problems == []
    assert list(read.data) == ["z", "a", "n", "f", "t", "e", "l"]
    assert read.data["a"] == shared
    assert (read.data["f"], read.data["t"], read.data["e"]) == (1e-5, True, {})
