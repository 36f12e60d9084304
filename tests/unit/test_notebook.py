"""The notebook: valid, without outputs that nobody ran here, and Python that compiles."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples" / "cluster.ipynb"


@pytest.fixture(scope="module")
def notebook() -> nbformat.NotebookNode:
    read: nbformat.NotebookNode = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    return read


def test_it_is_one(notebook: nbformat.NotebookNode) -> None:
    nbformat.validate(notebook)
    assert {cell.cell_type for cell in notebook.cells} == {"markdown", "code"}


def test_it_shows_nothing_that_was_not_run(notebook: nbformat.NotebookNode) -> None:
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert [c.id for c in code if c.outputs or c.execution_count is not None] == []


def test_its_python_compiles_and_imports_what_exists(notebook: nbformat.NotebookNode) -> None:
    import orchestrator

    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    plain = "\n".join(line for line in code.splitlines() if not line.startswith("!"))
    compile(plain, NOTEBOOK.name, "exec")
    names = re.findall(r"^from orchestrator import (.+)$", plain, re.MULTILINE)
    assert {name for line in names for name in line.split(", ")} <= set(orchestrator.__all__)


def test_it_goes_the_same_way_as_the_page(notebook: nbformat.NotebookNode) -> None:
    page = (ROOT / "docs" / "cluster.md").read_text()
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    for step in ("ray up", "python -m orchestrator.service user", "latentune backup", "ray down"):
        assert step in code and step in page, step
    links = [
        link for cell in notebook.cells for link in re.findall(r"\]\((\.\./[^)]+)\)", cell.source)
    ]
    assert links and all((NOTEBOOK.parent / link).exists() for link in links)
