"""Abuse A18: what is installed, and the oldest versions that this project starts on."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from orchestrator.errors import FloorError
from orchestrator.safety import floors
from orchestrator.safety.floors import FLOORS, check_floors
from tests.abuse.searches import GOOD, Terminal

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# What the design's page of peers names, and the version that closed it.
CLOSED_BY = {
    ("ray", "CVE-2023-6019, CVE-2023-48023"): "2.8.1",
    ("ray", "CVE-2025-62593: DNS rebinding runs code"): "2.52.0",
    ("ray", "token mode, on by default for a local Ray"): "2.59",
    ("mlflow", "CVE-2023-1177, -2780, -6831, -6976 and others: traversal"): "2.9.2",
    ("mlflow", "CVE-2025-11200: weak password"): "2.22.0",
    ("mlflow", "CVE-2025-11201: traversal runs code"): "2.22.0",
    ("mlflow", "CVE-2026-2614: a model version reads any file"): "3.10.0",
    ("mlflow", "checks of Host and Origin"): "3.5",
    ("mlflow", "GHSA-gq3w-7jj3-x7gr: a default password"): "3.17",
    ("torch", "CVE-2025-32434: weights_only runs code"): "2.6.0",
}


def locked() -> Iterator[tuple[Requirement, list[str]]]:
    """Each package of the lock file, and its hashes."""
    for entry in re.split(r"\n(?=\S)", (ROOT / "requirements.lock").read_text().strip()):
        name, *hashes = re.split(r"\s*\\\n\s+--hash=", entry)
        yield Requirement(name), hashes


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().split()
    return {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in lines}


def test_a18_everything_is_pinned_and_hashed() -> None:
    found = list(locked())
    assert len(found) > 100
    for requirement, hashes in found:
        assert [one.operator for one in requirement.specifier] == ["=="], requirement
        assert hashes, requirement
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", one) for one in hashes), requirement


def test_a18_the_lock_names_no_host() -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"https?:|file:|--(extra-)?index|--find-links|--trusted-host|@ ", text)


def test_a18_the_lock_and_the_constraints_are_one_set() -> None:
    pinned = pins()
    for requirement, _ in locked():
        name = canonicalize_name(requirement.name)
        if name in pinned:
            assert str(requirement.specifier) == f"=={pinned[name]}", "run `make lock`"
        else:  # of another system alone
            assert requirement.marker is not None, f"{name}: add it to constraints.txt"
    names = {canonicalize_name(requirement.name) for requirement, _ in locked()}
    # The extra `aws` is for those alone who raise a cluster there.
    assert set(pinned) - names == {"torch", "boto3", "botocore", "jmespath", "s3transfer"}


def test_a18_all_that_is_declared_is_locked_but_torch() -> None:
    names = {canonicalize_name(requirement.name) for requirement, _ in locked()}
    declared = [*PROJECT["project"]["dependencies"], *PROJECT["build-system"]["requires"]]
    declared += PROJECT["project"]["optional-dependencies"]["dev"]
    wanted = {canonicalize_name(Requirement(entry).name) for entry in declared}
    assert wanted - names == {"torch"}
    assert not [name for name in names if name.startswith("nvidia")]


def test_a18_make_installs_by_hash_and_nothing_beside() -> None:
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    ready = makefile.partition("\n.venv/ready:")[2].partition("\n.venv/tools")[0]
    installs = [line.partition("pip install ")[2] for line in ready.splitlines() if "pip" in line]
    assert installs == [
        "--quiet --require-hashes --no-deps -r requirements.lock",
        "--quiet -c constraints.txt torch",
        "--quiet --no-deps --no-build-isolation -e .",
    ]
    assert "pip-audit --strict" in makefile  # or a database that is away passes for a clean one


def floor_in_pyproject(name: str) -> Version:
    declared = map(Requirement, PROJECT["project"]["dependencies"])
    found = next(one for one in declared if canonicalize_name(one.name) == name)
    return Version(next(one.version for one in found.specifier if one.operator == ">="))


@pytest.mark.parametrize(("package", "hole"), CLOSED_BY)
def test_a18_the_floors_close_what_is_known(package: str, hole: str) -> None:
    closed = Version(CLOSED_BY[package, hole])
    assert floor_in_pyproject(package) >= closed
    assert Version(FLOORS[package]) >= closed
    assert Version(pins()[package]) >= closed


def test_a18_the_floors_are_those_of_the_project() -> None:
    assert {name: Version(floor) for name, floor in FLOORS.items()} == {
        name: floor_in_pyproject(name) for name in FLOORS
    }
    assert PROJECT["project"]["requires-python"] == ">=3.11"


def test_a18_a_version_below_its_floor_is_refused(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_floors()  # what is here is fine
    versions = {"ray": "2.58.9", "mlflow": "3.17.2", "torch": "2.13.0+cpu", "transformers": "5.17"}
    with pytest.raises(FloorError, match=r"^ray 2\.58\.9, expected 2\.59 or newer: install"):
        check_floors(versions.__getitem__)

    def without_mlflow(name: str) -> str:
        if name == "mlflow":
            raise PackageNotFoundError(name)
        return versions[name]

    with pytest.raises(FloorError, match=r"ray 2\.58\.9.*; mlflow is missing, expected 3\.17"):
        check_floors(without_mlflow)
    monkeypatch.setattr(floors, "FLOORS", {"ray": "99"})
    said = terminal("run", terminal.file(GOOD))
    assert (said.code, said.out) == (2, "")
    assert "expected 99 or newer" in said.err
    assert "pip install -U 'ray>=99'" in said.err
    assert not terminal.home.exists()
