"""Code from a model's repository: run only where asked for and pinned, and part of what it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.usage import attach_folder, generate_text
from tests.decoding_reference import artifact_of
from tests.hub import CachedHub
from trainable.artifact import CARD_FILE, Artifact
from trainable.base_model.loading import check_base, load_base
from trainable.errors import BaseModelError, FingerprintError
from trainable.fingerprint import code_files, model_fingerprint
from trainable.latents import LatentTokens
from trainable.strategy import InsertionStrategy

REPOSITORY, PLAIN = "someone/tiny-own", "someone/plain"
FIRST, SECOND, BORROWED, EAGER = "a1" * 20, "b2" * 20, "c3" * 20, "d4" * 20
START2 = InsertionStrategy.from_dict({"triggers": {"s": {"kind": "start", "m": 2}}})
CONFIGURATION = """
from pathlib import Path
from transformers import LlamaConfig

Path({marker!r}).touch()

class OwnConfig(LlamaConfig):
    model_type = "tiny_own"
"""
MODELING = """
from transformers import LlamaForCausalLM
from .configuration_own import OwnConfig

class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


class Hub(CachedHub):
    """One repository at four commits, and another without code.

    The second commit's code differs by a comment; the third takes its code from elsewhere; the
    fourth's has no sdpa attention.
    """

    def __init__(self, folder: Path, model: Path, patch: pytest.MonkeyPatch) -> None:
        super().__init__(folder, patch)
        self.marker = folder / "it-ran"
        self.add(PLAIN, FIRST, model)
        for commit in (FIRST, SECOND, BORROWED, EAGER):
            self._write_code(self.add(REPOSITORY, commit, model), borrowed=commit == BORROWED)
        more = self.snapshot(REPOSITORY, SECOND) / "modeling_own.py"
        more.write_text(more.read_text() + "# another\n")
        eager = self.snapshot(REPOSITORY, EAGER) / "modeling_own.py"
        eager.write_text(eager.read_text() + "    _supports_sdpa = False\n")

    def _write_code(self, folder: Path, borrowed: bool) -> None:
        there = "other/code--" if borrowed else ""
        changed = {
            "model_type": "tiny_own",
            "architectures": ["OwnForCausalLM"],
            "auto_map": {
                "AutoConfig": there + "configuration_own.OwnConfig",
                "AutoModelForCausalLM": there + "modeling_own.OwnForCausalLM",
            },
        }
        config = json.loads((folder / "config.json").read_text()) | changed
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "configuration_own.py").write_text(CONFIGURATION.format(marker=str(self.marker)))
        (folder / "modeling_own.py").write_text(MODELING)
        (folder / "unused.py").write_text("raise RuntimeError('never imported')\n")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Iterator[Hub]:
    with pytest.MonkeyPatch.context() as patch:
        yield Hub(tmp_path_factory.mktemp("hub"), tiny_folder, patch)


@pytest.fixture
def untouched(hub: Hub) -> Iterator[Hub]:
    """The hub, and a check at the end that none of its code ran."""
    hub.marker.unlink(missing_ok=True)
    yield hub
    assert not hub.marker.exists()


@pytest.fixture(scope="module")
def artifact(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Latents trained on the first commit."""
    base = load_base(REPOSITORY, revision=FIRST, trust_remote_code=True, device="cpu")
    folder = tmp_path_factory.mktemp("own") / "artifact"
    artifact_of(base, START2).save(folder)
    return folder


def test_code_runs_where_it_is_asked_for_and_pinned(hub: Hub) -> None:
    base = load_base(REPOSITORY, revision=FIRST, trust_remote_code=True, device="cpu")
    assert hub.marker.exists()
    assert type(base.model).__name__ == "OwnForCausalLM"
    described = base.describe()
    assert described["trust_remote_code"] is True
    assert described["revision"] == FIRST


def test_code_without_sdpa_is_refused_with_the_remedy(hub: Hub) -> None:
    chosen = {"revision": EAGER, "trust_remote_code": True, "device": "cpu"}
    with pytest.raises(BaseModelError, match=r"base_model\.attn_implementation: eager"):
        load_base(REPOSITORY, **chosen)
    load_base(REPOSITORY, **chosen, attn_implementation="eager")


def test_without_the_flag_nothing_runs_and_the_message_says_how(untouched: Hub) -> None:
    for refuse in (check_base, load_base):
        with pytest.raises(BaseModelError) as caught:
            refuse(REPOSITORY, revision=FIRST)
        for word in ("code of its own", "base_model.trust_remote_code", "base_model.revision"):
            assert word in str(caught.value)


def test_a_folder_with_code_is_refused_with_and_without_the_flag(untouched: Hub) -> None:
    folder = str(untouched.snapshot(REPOSITORY, FIRST))
    with pytest.raises(BaseModelError, match="code of its own"):
        load_base(folder)
    with pytest.raises(BaseModelError, match="folder, which has no revision"):
        load_base(folder, trust_remote_code=True, revision=FIRST)


def test_code_from_another_repository_is_refused(untouched: Hub) -> None:
    with pytest.raises(BaseModelError, match=r"another repository, 'other/code'.*does not pin"):
        load_base(REPOSITORY, revision=BORROWED, trust_remote_code=True)


def test_the_flag_on_a_model_without_code_changes_nothing(hub: Hub) -> None:
    options = {"revision": FIRST, "device": "cpu"}
    asked = load_base(PLAIN, trust_remote_code=True, **options)
    assert not asked.own_code
    assert asked.fingerprint == load_base(PLAIN, **options).fingerprint


def test_the_code_that_is_named_and_what_it_imports(hub: Hub, tiny_folder: Path) -> None:
    assert code_files(REPOSITORY, FIRST) == ["configuration_own.py", "modeling_own.py"]
    assert code_files(str(tiny_folder), None) == []


def test_other_code_is_another_model(hub: Hub) -> None:
    def found(commit: str, own_code: bool) -> str:
        return model_fingerprint(REPOSITORY, commit, own_code=own_code)

    assert found(FIRST, own_code=True) != found(SECOND, own_code=True)
    assert found(FIRST, own_code=False) == found(SECOND, own_code=False)
    assert found(FIRST, own_code=True) != found(FIRST, own_code=False)


def test_an_artifact_alone_never_makes_code_run(artifact: Path, untouched: Hub) -> None:
    with pytest.raises(BaseModelError) as caught:
        attach_folder(artifact, None)
    for word in (REPOSITORY, FIRST, "code of its own", "--trust-remote-code"):
        assert word in str(caught.value)
    with pytest.raises(BaseModelError, match="--trust-remote-code"):
        attach_folder(artifact, "another/path")


def test_an_artifact_generates_where_its_code_is_allowed(artifact: Path) -> None:
    text = generate_text(artifact, "44@47=", 4, None, trust_remote_code=True)
    assert text.startswith("44@47=")


def test_latents_do_not_attach_to_other_code(artifact: Path) -> None:
    other = load_base(REPOSITORY, revision=SECOND, trust_remote_code=True, device="cpu")
    with pytest.raises(FingerprintError, match=f"code of its revision {FIRST}"):
        LatentTokens.load(artifact).attach(other.model, other.tokenizer)


def test_the_card_warns(artifact: Path) -> None:
    card = (artifact / CARD_FILE).read_text()
    assert "runs code of its own" in card
    assert FIRST in card
    assert Artifact.load(artifact).base_model["trust_remote_code"] is True
