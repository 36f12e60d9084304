"""`latentune inspect` on a tiny artifact folder: its files, its words, and what it refuses."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from orchestrator.attention_data import Inspection, Subject, triggers_of_groups, write_table
from orchestrator.attention_figure import draw, shown
from orchestrator.cli import main
from orchestrator.errors import TargetExistsError
from orchestrator.inspection import FILES, inspect_folder
from tests.decoding_reference import artifact_of, attached
from trainable.attention import AttentionShares, Site
from trainable.base_model.loading import BaseModel, load_base
from trainable.strategy import InsertionStrategy

START_COMMA = {
    "triggers": {"start": {"kind": "start", "m": 3}, "comma": {"kind": "delimiter", "m": 2}},
    "specialization": "by_trigger",
}
PROMPT, COMPLETION = "ab,c", ",de,"
TOKENS = ["<s>", *PROMPT, *COMPLETION]


def saved(base: BaseModel, folder: Path, strategy: dict[str, Any]) -> Path:
    artifact_of(base, InsertionStrategy.from_dict(strategy)).save(folder)
    return folder


@pytest.fixture(scope="module")
def artifact(tiny_base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tiny_base, tmp_path_factory.mktemp("artifacts") / "tiny", START_COMMA)


@pytest.fixture(scope="module")
def inspected(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Inspection, Path]:
    """One inspection of a given completion, for all tests that only look at it."""
    folder = tmp_path_factory.mktemp("inspected") / "there"
    return inspect_folder(artifact, PROMPT, completion=COMPLETION, to=folder), folder


def test_the_summary(inspected: tuple[Inspection, Path]) -> None:
    found, folder = inspected
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert Inspection.model_validate_json((folder / "summary.json").read_bytes()) == found
    assert (found.tokens, found.query_length) == (TOKENS, 5)
    assert (found.layers, found.heads) == (2, 2)
    sites = [(s.group, s.trigger, s.before, s.m) for s in found.sites]
    commas = [(1, "comma", before, 2) for before in (3, 5, 8)]
    assert sites == [(0, "start", 1, 3), *commas]
    latest = {(curve.group, curve.layer): curve for curve in found.latest_by_distance}
    assert set(latest) == {(group, layer) for group in (0, 1) for layer in (-1, 0, 1)}
    assert latest[0, 0].at == [1, 2]
    assert latest[1, 0].at == [1, 2, 3]
    assert latest[1, 0].pairs == [3, 2, 1]
    by_newer = {(curve.group, curve.layer): curve for curve in found.by_newer}
    assert by_newer[1, 0].at == [0, 1, 2]
    previous = {(curve.group, curve.layer): curve for curve in found.previous_by_distance}
    assert previous[1, 0].at == [3, 4, 5]
    assert previous[1, 0].pairs == [1, 2, 1]
    for curves in (latest, by_newer, previous):
        for group in (0, 1):
            layers = np.mean([curves[group, layer].share for layer in (0, 1)], axis=0)
            np.testing.assert_allclose(curves[group, -1].share, layers, rtol=1e-6)


def test_the_table_agrees_with_the_summary(inspected: tuple[Inspection, Path]) -> None:
    found, folder = inspected
    rows = pq.read_table(folder / "attention.parquet").to_pylist()
    pairs = sum(len(TOKENS) - site.before for site in found.sites)
    assert len(rows) == 2 * 3 * (pairs + len(TOKENS))
    assert [
        r["token"] for r in rows if (r["layer"], r["head"], r["site"]) == (0, 1, None)
    ] == TOKENS
    for layer in (0, 1):
        for n in range(len(TOKENS)):
            for head in (-1, 0, 1):
                mine = [r for r in rows if (r["layer"], r["head"], r["verbal"]) == (layer, head, n)]
                assert sum(r["share"] for r in mine) == pytest.approx(1, abs=1e-5)
                assert sum(r["uniform"] for r in mine) == pytest.approx(1, abs=1e-5)
    second = [r for r in rows if r["site"] == 1 and r["head"] == -1 and r["layer"] == 1]
    assert [r["verbal"] for r in second] == [3, 4, 5, 6, 7, 8]
    assert [r["distance"] for r in second] == [1, 2, 3, 4, 5, 6]
    assert [r["newer"] for r in second] == [0, 0, 1, 1, 1, 2]
    assert {(r["group"], r["trigger"], r["before"]) for r in second} == {(1, "comma", 3)}
    curves = {(c.layer, c.group): c for c in found.latest_by_distance}
    first = [r for r in rows if r["site"] == 0 and r["layer"] == 0 and r["newer"] == 0]
    shares = [r["share"] for r in first if r["head"] == -1]
    assert shares == pytest.approx(curves[0, 0].share, rel=1e-5)
    heads = [[r["share"] for r in first if r["head"] == head] for head in (0, 1)]
    assert shares == pytest.approx(np.mean(heads, axis=0), rel=1e-5)


def test_what_the_model_itself_goes_on_with(
    artifact: Path, tiny_base: BaseModel, tmp_path: Path
) -> None:
    lm = attached(tiny_base, InsertionStrategy.from_dict(START_COMMA))
    inputs = tiny_base.tokenizer(PROMPT, return_tensors="pt")
    ids = lm.generate(**inputs, max_new_tokens=6, do_sample=False)[0].tolist()
    found = inspect_folder(artifact, PROMPT, max_new_tokens=6, to=tmp_path / "a")
    assert found.query_length == 5
    assert found.tokens == [str(tiny_base.tokenizer.decode([i])) for i in ids]
    assert len(found.tokens) > 5
    alone = inspect_folder(artifact, PROMPT, max_new_tokens=0, to=tmp_path / "b")
    assert alone.tokens == found.tokens[:5]


# --- the folder


def test_the_same_again_is_welcome_and_anything_else_is_not(
    inspected: tuple[Inspection, Path], artifact: Path, tmp_path: Path
) -> None:
    found, done = inspected
    folder = tmp_path / "copy"
    shutil.copytree(done, folder)
    again = inspect_folder(artifact, PROMPT, completion=COMPLETION, to=folder)
    assert again == found.model_copy(update={"folder": str(folder)})
    with pytest.raises(TargetExistsError, match="copy is in the way"):
        inspect_folder(artifact, PROMPT, completion="other", to=folder)
    (folder / "mine.txt").write_text("a person's own")
    with pytest.raises(TargetExistsError):
        inspect_folder(artifact, PROMPT, completion=COMPLETION, to=folder)
    assert (folder / "mine.txt").exists()


@pytest.mark.parametrize("summary", ["", "[]", "{}"])
def test_a_folder_with_another_summary_is_in_the_way(
    summary: str, artifact: Path, tmp_path: Path
) -> None:
    (tmp_path / "summary.json").write_text(summary)
    with pytest.raises(TargetExistsError):
        inspect_folder(artifact, PROMPT, to=tmp_path)


def test_a_file_is_in_the_way(artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TargetExistsError):
        inspect_folder(artifact, PROMPT, to=tmp_path / "file")


def test_an_empty_folder_is_taken(artifact: Path, tmp_path: Path) -> None:
    inspect_folder(artifact, PROMPT, completion="", to=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)


# --- the command


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """`latentune inspect` in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["latentune", "inspect", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capsys.readouterr()
        assert isinstance(caught.value.code, int)
        return caught.value.code, out, err

    return run


def test_the_command(command: Command, artifact: Path, tmp_path: Path) -> None:
    code, out, _ = command(artifact, PROMPT, "--max-new-tokens", 3)
    (folder,) = tmp_path.iterdir()
    assert code == 0
    assert folder.name.startswith("inspect-tiny-")
    assert f"attention.parquet, attention.png, summary.json in {folder.name}" in out
    for word in ("start3+comma2~by_trigger", "mean", "uniform"):
        assert word in out


def test_the_command_with_json(command: Command, artifact: Path, tmp_path: Path) -> None:
    code, out, _ = command(artifact, PROMPT, "--completion", COMPLETION, "--to", "x", "--json")
    assert code == 0
    data = json.loads(out)
    assert data["schema_version"] == 1
    assert data == json.loads((tmp_path / "x" / "summary.json").read_text())


def refused(command: Command, tmp_path: Path, *arguments: object) -> str:
    """The message; nothing was written."""
    before = sorted(tmp_path.rglob("*"))
    code, out, err = command(*arguments)
    assert (code, out) == (2, ""), err
    assert "Traceback" not in err
    assert sorted(tmp_path.rglob("*")) == before
    return err


def test_no_such_folder(command: Command, tmp_path: Path) -> None:
    assert "nowhere is no artifact folder" in refused(command, tmp_path, "nowhere", PROMPT)


def test_a_strategy_without_latents(command: Command, tmp_path: Path, tiny_base: BaseModel) -> None:
    none = saved(tiny_base, tmp_path / "none", {"triggers": {}})
    message = refused(command, tmp_path, none, PROMPT)
    assert "strategy none, which inserts no latents" in message


def test_a_sequence_without_sites(command: Command, tmp_path: Path, tiny_base: BaseModel) -> None:
    strategy = {"triggers": {"comma": {"kind": "delimiter", "m": 2}}}
    comma = saved(tiny_base, tmp_path / "comma", strategy)
    message = refused(command, tmp_path, comma, "ab", "--completion", "cd")
    assert "strategy comma2 makes no site in these 5 verbal tokens" in message


def test_a_prompt_beyond_the_context(command: Command, tmp_path: Path, artifact: Path) -> None:
    message = refused(command, tmp_path, artifact, PROMPT, "--max-new-tokens", 508)
    assert "needs 513 positions, the base model's context is 512" in message


def test_an_empty_prompt_without_bos(
    command: Command, tmp_path: Path, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = tmp_path_factory.mktemp("without_bos") / "model"
    shutil.copytree(tiny_folder, model)
    text = json.loads((model / "tokenizer.json").read_text())
    (model / "tokenizer.json").write_text(json.dumps(text | {"post_processor": None}))
    assert AutoTokenizer.from_pretrained(model)("")["input_ids"] == []
    folder = saved(load_base(str(model), device="cpu"), tmp_path / "artifact", START_COMMA)
    message = refused(command, tmp_path, folder, "")
    assert "the prompt has no tokens, and the tokenizer adds no BOS" in message


def test_a_prompt_of_bos_alone(artifact: Path, tmp_path: Path) -> None:
    found = inspect_folder(artifact, "", completion="a,", to=tmp_path / "x")
    assert (found.tokens, found.query_length) == (["<s>", "a", ","], 1)


# --- which trigger, and the figure


@pytest.mark.parametrize(
    ("data", "triggers"),
    [
        (START_COMMA, ["start", "comma"]),
        ({"triggers": {"comma": {"kind": "delimiter"}}}, ["comma"]),
        ({"triggers": {"a": {"kind": "start"}, "b": {"kind": "end"}}}, [None]),
        ({"triggers": {}}, []),
    ],
)
def test_the_trigger_where_the_group_tells(data: dict[str, Any], triggers: list[str]) -> None:
    assert triggers_of_groups(InsertionStrategy.from_dict(data)) == triggers


def test_a_group_that_several_triggers_share_has_no_trigger(tmp_path: Path) -> None:
    shares, subject = random_shares(layers=1, tokens=["a"] * 6, sites=2, triggers=[None])
    write_table(tmp_path / "x.parquet", shares, subject)
    table = pq.read_table(tmp_path / "x.parquet")
    assert table["trigger"].null_count == len(table)
    assert table["group"].null_count == 2 * 6  # the verbal tokens' own rows, of head and mean


def random_shares(
    *, layers: int, tokens: list[str], sites: int, triggers: list[str | None]
) -> tuple[AttentionShares, Subject]:
    count = len(tokens)
    places = np.linspace(1, count - 1, sites).astype(int).tolist()
    made = tuple(Site(i % len(triggers), before, 2 * i, 1) for i, before in enumerate(places))
    drawn = np.random.default_rng(0).dirichlet(np.ones(sites + 1), size=(layers, 1, count))
    seen_NS = np.arange(count)[:, None] >= np.array(places)[None]
    share = (drawn[..., :-1] * seen_NS).astype(np.float32)
    uniform = np.broadcast_to(seen_NS / (2 * count), (layers, count, sites)).astype(np.float32)
    shares = AttentionShares(made, share, 1 - share.sum(-1), uniform)
    return shares, Subject("some1", "some-0", tokens, 1, triggers)


WORDS = ["$\\q$", "\n", " the", "日本", "\x07", "", "ﬁ", "\ufffd"]


@pytest.mark.parametrize(
    ("layers", "tokens", "sites", "triggers"),
    [
        (1, ["a", "b"], 1, ["comma"]),
        (9, WORDS * 3, 6, ["a", "$\\b$", None]),
        (2, ["x"] * 400, 120, ["every"]),
    ],
    ids=["smallest", "strange tokens", "long"],
)
def test_the_figure_can_be_drawn(
    layers: int, tokens: list[str], sites: int, triggers: list[str | None], tmp_path: Path
) -> None:
    """Every warning of matplotlib is an error here."""
    shares, subject = random_shares(layers=layers, tokens=tokens, sites=sites, triggers=triggers)
    draw(tmp_path / "x.png", shares, subject)
    header = (tmp_path / "x.png").read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = (int.from_bytes(header[at : at + 4], "big") for at in (16, 20))
    assert 800 < width < 3000
    assert 600 < height < 4000


def test_labels_of_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    assert [shown(text) for text in (" a\n\t", "\x07", "", "$")] == ["␣a⏎⇥", "\\x07", "·", "$"]
    assert all(shown(str(tokenizer.decode([i]))).strip() for i in range(len(tokenizer)))
