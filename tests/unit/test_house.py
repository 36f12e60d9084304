"""The house around the code: who may import what, and whether README and examples are true."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("trainable", "search_spaces", "orchestrator")
EXAMPLES = sorted((ROOT / "examples").rglob("*.yaml"))

# None makes an import fail as a missing package does; libraries that only look find nothing.
BLOCKER = "import sys; sys.modules.update(dict.fromkeys({blocked!r}))\n"


def run_python(code: str) -> str:
    """Run code in a fresh interpreter at the repository's root; its standard output."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def modules_of(package: str) -> list[str]:
    """The dotted names of a package's modules; those that run when imported left out."""
    paths = sorted((ROOT / package).rglob("*.py"))
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    return [name.removesuffix(".__init__") for name in names if not name.endswith("__main__")]


def import_all(package: str) -> str:
    return "\n".join(f"import {name}" for name in modules_of(package))


def test_search_spaces_leave_torch_out() -> None:
    out = run_python(import_all("search_spaces") + "\nimport sys; print('torch' in sys.modules)")
    assert out.strip() == "False"


def test_trainable_works_where_no_search_can_run() -> None:
    blocked = {"ray", "optuna", "mlflow", "pydantic", "typer", "search_spaces", "orchestrator"}
    blocked |= {"accelerate", "bitsandbytes", "peft"}
    run_python(BLOCKER.format(blocked=blocked) + import_all("trainable"))


@pytest.mark.parametrize(
    "module",
    [
        "trainable.strategy",
        "trainable.trial",
        "trainable.layout",
        "trainable.artifact",
        "trainable.base_model.options",
    ],
)
def test_what_a_driver_imports_is_free_of_torch(module: str) -> None:
    run_python(BLOCKER.format(blocked={"torch", "transformers"}) + f"import {module}")


def test_trainable_itself_imports_nothing() -> None:
    assert not (ROOT / "trainable/__init__.py").read_text()


def tree_lines() -> list[str]:
    readme = (ROOT / "README.md").read_text()
    block = re.search(r"^## Files\n\n```text\n(.*?)\n```", readme, flags=re.DOTALL | re.MULTILINE)
    assert block, "README.md has no file tree under `## Files`"
    return block[1].splitlines()


def tree_paths() -> Iterator[str]:
    """The paths that the README's tree names; two spaces are one folder deeper."""
    folders: list[str] = []
    for line in tree_lines():
        depth = (len(line) - len(line.lstrip())) // 2
        folders[depth:] = [line.split()[0]]
        yield "".join(folders)


def test_readme_names_every_module() -> None:
    folders = [ROOT / name for name in (*PACKAGES, "benchmarks")]
    files = [path for folder in folders for path in folder.rglob("*.py") if path.stat().st_size]
    there = {path.relative_to(ROOT).as_posix() for path in files}
    named = {path for path in tree_paths() if path.endswith(".py")}
    assert named == there


def test_readme_names_nothing_that_is_not_there() -> None:
    assert [path for path in tree_paths() if not (ROOT / path).exists()] == []


def test_readme_says_something_about_every_file() -> None:
    files = [line for line in tree_lines() if not line.split()[0].endswith("/")]
    assert [line for line in files if len(line.split()) < 2] == []


def test_readme_python_compiles() -> None:
    readme = (ROOT / "README.md").read_text()
    for code in re.findall(r"^```python\n(.*?)^```", readme, flags=re.DOTALL | re.MULTILINE):
        compile(code, "README.md", "exec")


def test_readme_shows_the_example_as_it_is() -> None:
    example = (ROOT / "examples" / "records" / "search.yaml").read_text()
    assert f"```yaml\n{example}```\n" in (ROOT / "README.md").read_text()


def test_there_are_examples() -> None:
    assert EXAMPLES


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_examples_load(path: Path) -> None:
    from orchestrator.config import load_search

    load_search(path)


def test_constraints_pin_all_that_is_declared() -> None:
    def plain(name: str) -> str:
        return re.sub(r"[-_.]+", "-", name).lower()

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(entry for extra in extras for entry in extra)]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines), "a name, ==, a version"
    pinned = {plain(line.split("==")[0]) for line in lines}
    assert {plain(re.split(r"[\[<>=]", entry)[0]) for entry in wanted} <= pinned
