"""Abuse A1 to A6: names, links, pickles, lying headers, foreign code, and what we import."""

from __future__ import annotations

import ast
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from orchestrator.errors import ConfigError, ManifestError, SearchNotFoundError
from orchestrator.files import write_atomic
from orchestrator.folders import SearchFolder
from orchestrator.manifest import check_folder
from orchestrator.search_config import SearchConfig
from tests.abuse.dangers import dangers
from tests.abuse.searches import GOOD, Terminal
from tests.unit.local_search import local_config, search_locally
from trainable.artifact import CONFIG_FILE, LATENTS_FILE, Artifact
from trainable.base_model.loading import BaseModel, check_base
from trainable.errors import ArtifactError, BaseModelError
from trainable.foreign_files import read_mapping
from trainable.peft_format import Adapter
from trainable.state import TrialState
from trainable.trial import TrialConfig

ROOT = Path(__file__).parents[2]
NAMES = [
    "../../x", "..", ".", "/etc/x", "a/b", "a\\b", "a\0b", "a\nb", "a\n", "--help", "x" * 300, "",
    "\u202egnp.exe", "caf\u00e9", "\U0001f600", "%2e%2e", "CON", ".hidden", "-a", " a", "a b",
    "$HOME",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound artifact folder."""
    config = TrialConfig.from_dict({"strategy": {"triggers": {"s": {"kind": "start", "m": 2}}}})
    latents = np.ones((2, 4), np.float32)
    Artifact(latents=latents, config=config, base_model={"path": "bundled"}).save(tmp_path / "a")
    return tmp_path / "a"


@pytest.mark.parametrize("name", NAMES)
def test_a01_names_are_slugs_or_nothing(name: str, tmp_path: Path) -> None:
    with pytest.raises(SearchNotFoundError, match="no search name"):
        SearchFolder.of(tmp_path, name)
    with pytest.raises(ValueError, match="expected a name of the form"):
        SearchConfig.model_validate(GOOD | {"name": name})
    assert list(tmp_path.iterdir()) == []


def test_a01_where_a_search_s_files_lie_is_under_the_home(tmp_path: Path) -> None:
    for name in ("a", "a..b", "a.", "0-._"):
        found = SearchFolder.of(tmp_path, name)
        for path in (found.config, found.trial(found.uid(3)), found.artifact(found.uid(3))):
            assert path.resolve().is_relative_to(tmp_path.resolve() / "searches" / name)


def all_below(*folders: Path, but: Path) -> dict[Path, tuple[int, int] | None]:
    """Every path below folders; of files, their size and when they were changed."""
    found = [path for folder in folders for path in folder.rglob("*")]
    return {
        path: None if path.is_dir() else (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in found
        if not path.is_relative_to(but)
    }


def test_a01_what_is_written_stays_under_the_home(
    terminal: Terminal, tiny_folder: Path, tiny_base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search of a legal name that looks like a path, all of it, and what is asked of it."""
    outside, home, name = terminal.folder / "outside", terminal.home, "a..b"
    for part in ("user", "tmp"):
        (outside / part).mkdir(parents=True)
    (home / "searches").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(outside / "user"))
    monkeypatch.setattr(tempfile, "tempdir", str(outside / "tmp"))
    monkeypatch.chdir(outside)
    before = all_below(terminal.folder, tiny_folder, but=home)
    folder = search_locally(local_config(tiny_folder, name=name), home, tiny_base)
    for verb in (("status", name), ("list",), ("rm", "../x", "--yes"), ("stop", "../x")):
        assert "Traceback" not in terminal(*verb).err
    assert all_below(terminal.folder, tiny_folder, but=home) == before
    assert folder.path.resolve() == home.resolve() / "searches" / name
    assert list((home / "searches").iterdir()) == [folder.path]
    assert {path.name for path in home.iterdir()} <= {"searches", "cache"}
    assert list(folder.path.glob("trials/*/*.safetensors"))
    assert terminal("rm", name, "--yes").code == 0
    assert all_below(terminal.folder, tiny_folder, but=home) == before


@pytest.mark.parametrize("name", [CONFIG_FILE, LATENTS_FILE])
def test_a02_links_in_an_artifact_folder_are_not_followed(folder: Path, name: str) -> None:
    secret = folder.parent / "secret"
    (folder / name).rename(secret)
    (folder / name).symlink_to(secret)
    with pytest.raises(ArtifactError, match="it is a link, and links are not followed"):
        Artifact.load(folder)
    with pytest.raises(ManifestError, match="is a link or no plain file"):
        check_folder(folder)


@pytest.mark.parametrize("name", [CONFIG_FILE, LATENTS_FILE, "README.md"])
def test_a02_a_hard_link_gives_nothing_away_and_is_not_written_through(
    folder: Path, name: str
) -> None:
    """It is a file like any other: read as data and refused as such; what we write replaces it."""
    secret = folder.parent / "secret"
    secret.write_text("canary: of a file that others may not read")
    sound = Artifact.load(folder)
    (folder / name).unlink()
    (folder / name).hardlink_to(secret)
    if name != "README.md":
        with pytest.raises(ArtifactError) as caught:
            Artifact.load(folder)
        assert "canary" not in str(caught.value)
    sound.save(folder)
    write_atomic(folder.parent / "config.yaml", b"old")
    (folder.parent / "config.yaml").unlink()
    (folder.parent / "config.yaml").hardlink_to(secret)
    write_atomic(folder.parent / "config.yaml", b"new")
    assert (folder.parent / "config.yaml").read_text() == "new"
    assert secret.read_text() == "canary: of a file that others may not read"
    assert secret.stat().st_nlink == 1
    assert Artifact.load(folder).config == sound.config


def test_a02_a_pipe_is_no_file_to_wait_for(folder: Path) -> None:
    (folder / CONFIG_FILE).unlink()
    os.mkfifo(folder / CONFIG_FILE)
    with pytest.raises(ArtifactError, match="it has no latent_config"):
        Artifact.load(folder)
    with pytest.raises(ArtifactError, match="is no plain file"):
        read_mapping(folder / CONFIG_FILE)


class Bomb:
    """Runs when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.canary),)


@pytest.mark.parametrize(
    "name", ["latents.pkl", "latents.pt", "pytorch_model.bin", "more.txt", LATENTS_FILE]
)
def test_a03_pickles_are_refused_and_never_run(folder: Path, name: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    (folder / name).write_bytes(pickle.dumps(Bomb(canary)))
    with pytest.raises(ArtifactError, match=r"is a pickle, or named as one|is damaged"):
        Artifact.load(folder)
    if name != LATENTS_FILE:
        with pytest.raises(ManifestError, match="beside the three files"):
            check_folder(folder)
    assert not canary.exists()


def test_a03_a_pickled_adapter_is_refused_and_never_run(tmp_path: Path) -> None:
    canary, adapter = tmp_path / "canary", tmp_path / "adapter"
    adapter.mkdir()
    kind = {"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM"}
    (adapter / "adapter_config.json").write_text(json.dumps(kind))
    (adapter / "adapter_model.bin").write_bytes(pickle.dumps(Bomb(canary)))
    with pytest.raises(ArtifactError, match="a pickle, which can run code"):
        Adapter.load(adapter)
    assert not canary.exists()


def tensor_file(header: bytes | dict[str, Any], data: bytes = b"", claimed: int = -1) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if claimed < 0 else claimed).to_bytes(8, "little") + text + data


def entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


LIES = {
    "2 GB header": tensor_file(b"{}", claimed=2**31),
    "2^63 header": tensor_file(b"{}", claimed=2**63),
    "no header": b"\x01",
    "nothing": b"",
    "huge shape": tensor_file({"latents": entry("F32", [10**6, 10**6], 0, 32)}, bytes(32)),
    "overflowing shape": tensor_file({"latents": entry("F32", [2**40, 2**40], 0, 32)}, bytes(32)),
    "negative shape": tensor_file({"latents": entry("F32", [-2, -4], 0, 32)}, bytes(32)),
    "overlapping": tensor_file(
        {"latents": entry("F32", [2, 4], 0, 32), "b": entry("F32", [2, 4], 16, 48)}, bytes(48)
    ),
    "beyond the end": tensor_file({"latents": entry("F32", [2, 4], 0, 32)}, bytes(8)),
    "hole": tensor_file({"latents": entry("F32", [2, 4], 32, 64)}, bytes(64)),
    "wrong dtype": tensor_file({"latents": entry("F64", [2, 2], 0, 32)}, bytes(32)),
    "half dtype": tensor_file({"latents": entry("BF16", [2, 4], 0, 16)}, bytes(16)),
    "no such dtype": tensor_file({"latents": entry("F33", [2, 4], 0, 32)}, bytes(32)),
    "deep header": tensor_file(b"[" * 60_000),
    "twice": tensor_file(
        b'{"latents":{"dtype":"F32","shape":[2,4],"data_offsets":[0,32]},'
        b'"latents":{"dtype":"F32","shape":[1,8],"data_offsets":[0,32]},"x":1}',
        bytes(32),
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a04_headers_that_lie_are_errors(folder: Path, lie: str) -> None:
    (folder / LATENTS_FILE).write_bytes(LIES[lie])
    with pytest.raises(ArtifactError):
        Artifact.load(folder)
    with pytest.raises(ArtifactError):
        TrialState.from_bytes(LIES[lie])


LOADER = """
import json, resource, sys, time
from pathlib import Path
import psutil
from trainable.artifact import Artifact
from trainable.errors import ArtifactError

said = {}
most = psutil.Process().memory_info().vms + 200 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (most, most))
for folder in map(Path, sys.argv[1:]):
    began = time.monotonic()
    try:
        Artifact.load(folder)
        said[folder.name] = "loaded"
    except ArtifactError as error:
        said[folder.name] = str(error)
    said[folder.name] += " LATE" * (time.monotonic() - began > 1)
try:
    bytearray(210 * 2**20)
    said["more"] = "there was room"
except MemoryError:
    said["more"] = "no room"
print(json.dumps(said))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="others do not bound the address space")
def test_a04_headers_that_lie_cost_no_memory_and_no_time(folder: Path, tmp_path: Path) -> None:
    """Less than 200 MB beyond what the process had, and less than a second; or no ArtifactError."""
    files = {name.replace(" ", "-"): content for name, content in LIES.items()}
    files["terabytes"] = tensor_file({"latents": entry("F32", [10**6, 10**6], 0, 4 * 10**12)})
    for name, content in files.items():
        shutil.copytree(folder, tmp_path / name)
        (tmp_path / name / LATENTS_FILE).write_bytes(content)
    with suppress(OSError):  # a file system may have no sparse files of that size
        os.truncate(tmp_path / "terabytes" / LATENTS_FILE, 4 * 10**12)
    done = subprocess.run(
        [sys.executable, "-c", LOADER, str(folder), *(str(tmp_path / name) for name in files)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said.pop(folder.name), said.pop("more")) == ("loaded", "no room")
    assert set(said) == set(files)
    assert [text for text in said.values() if "LATE" in text or text == "loaded"] == []


def test_a04_a_file_of_terabytes_is_not_read(folder: Path) -> None:
    """A sparse one: it takes no room on the disk, and its header fits it."""
    header = {"latents": entry("F32", [10**6, 10**6], 0, 4 * 10**12)}
    (folder / LATENTS_FILE).write_bytes(tensor_file(header))
    try:
        os.truncate(folder / LATENTS_FILE, 4 * 10**12)
    except OSError:
        pytest.skip("this file system has no sparse files of that size")
    with pytest.raises(ArtifactError, match=r"bytes, expected at most 268435456"):
        Artifact.load(folder)


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"a":' * 100_000, "[]", "null", "1e999", "{", "\x00", "9" * 5000,
     '{"trial": {"strategy": {"triggers": {"a": {"kind": "start", "m": 1e9}}}}}'],
)  # fmt: skip
def test_a04_a_config_that_is_none(folder: Path, text: str) -> None:
    (folder / CONFIG_FILE).write_text(text)
    with pytest.raises(ArtifactError):
        Artifact.load(folder)


@pytest.mark.parametrize("m", [10**6, 10**12])
def test_a04_latents_that_no_memory_holds(folder: Path, m: int) -> None:
    config = json.loads((folder / CONFIG_FILE).read_text())
    config["trial"]["strategy"]["triggers"]["s"]["m"] = m
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match=rf"m={m}"):
        Artifact.load(folder)


def test_a05_a_model_that_needs_its_own_code_is_refused(tmp_path: Path) -> None:
    """The whole story, with a marker that code would leave, is `tests/unit/test_remote_code.py`."""
    named = {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": named}))
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
    for options in ({}, {"trust_remote_code": True}, {"revision": "main"}):
        with pytest.raises(BaseModelError):
            check_base(str(tmp_path), **options)
    assert not (tmp_path / "canary").exists()
    for revision in (None, "main", "a" * 39):
        model = {"path": "someone/own", "trust_remote_code": True, "revision": revision}
        with pytest.raises((ConfigError, ValueError), match="full commit"):
            SearchConfig.model_validate(GOOD | {"base_model": model})


@pytest.mark.parametrize("package", ["trainable", "search_spaces", "orchestrator"])
def test_a06_nothing_runs_what_it_reads(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    found = {
        f"{path.relative_to(ROOT)}: {danger}"
        for path in files
        for danger in dangers(ast.parse(path.read_text()))
    }
    assert found == set()


SPELLINGS = [
    "eval(x)", "map(eval, x)", "import builtins\nbuiltins.eval(x)", "compile(x, y, 'exec')",
    "import pickle", "from dill import loads", "import cloudpickle.x",
    "from ray import cloudpickle",
    "import ray\nray.cloudpickle.loads(x)", "import importlib\nimportlib.import_module('pickle')",
    "torch.load(p)", "from torch import load\nload(p)", "import torch as t\nt.load(p)",
    "import torch.serialization as s\ns.load(p)",
    "def f():\n    from torch import load as g\n    g(p)",
    "from numpy import load\nload(p)", "import numpy as np\nnp.load(p)", "f(p, allow_pickle=flag)",
    "np.savez(p, allow_pickle=True)", "import yaml\nyaml.unsafe_load(p)", "yaml.full_load(p)",
    "from yaml import load\nload(p, Loader=UnsafeLoader)", "pandas.read_pickle(p)",
    "os.system(c)", "from os import system\nsystem(c)", "import os as o\nrun = o.system",
    "getattr(os, 'system')(c)", "from os import *", "from subprocess import getoutput as g\ng(c)",
    "subprocess.run(c, shell=True)", "subprocess.run(c, shell=1)", "subprocess.run(c, shell=flag)",
    "asyncio.create_subprocess_shell(c)", "import asyncio as a\na.create_subprocess_shell(c)",
]  # fmt: skip
HARMLESS = [
    "model.eval()", "re.compile(x)", "import torch\ntorch.compile(m)",
    "def f(compile):\n    compile",
    "import platform\nplatform.system()", "json.load(f)", "Artifact.load(p)", "f(shell=False)",
    "from safetensors.numpy import load\nload(x)", "from orchestrator.config import load_search",
]  # fmt: skip


@pytest.mark.parametrize("code", SPELLINGS)
def test_a06_the_scan_sees_what_it_looks_for(code: str) -> None:
    assert list(dangers(ast.parse(code)))


@pytest.mark.parametrize("code", HARMLESS)
def test_a06_the_scan_sees_nothing_else(code: str) -> None:
    assert list(dangers(ast.parse(code))) == []


def test_a06_the_linter_looks_as_well() -> None:
    """Ruff's security rules are on, for everything but tests' own processes."""
    code = (
        "import pickle, subprocess\npickle.loads(b'')\nsubprocess.run('x', shell=True)\neval('1')\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format", "concise",
         "--stdin-filename", str(ROOT / "trainable" / "x.py"), "-"],
        input=code, capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert {"S301", "S307", "S602"} <= set(done.stdout.replace(":", " ").split())


def test_a06_a_file_of_numbers_in_another_form_is_no_artifact(folder: Path) -> None:
    save_file({"latents": np.zeros((2, 4), np.int64)}, folder / LATENTS_FILE)
    with pytest.raises(ArtifactError, match="must be finite float32"):
        Artifact.load(folder)
