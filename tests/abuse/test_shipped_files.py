"""Abuse A11: what a person who copies our files might publish, or open to others."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = [*ROOT.glob("examples/**/*.yaml"), ROOT / "Makefile", ROOT / ".ci" / "run"]
SHIPPED = [
    *OURS, ROOT / "cluster.yaml", *ROOT.glob("examples/**/*"), *ROOT.glob("deploy/**/*"),
]  # fmt: skip
SECRETS = re.compile(
    r"hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|sk-[\w-]{16,}|xox[abprs]-[\w-]{10,}"
    r"|(AKIA|ASIA)[0-9A-Z]{16}|AIza[\w-]{30,}|-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|://[^\s/:@'\"]+:[^\s/@'\"]+@"  # a URL with a password
    r"|(?<![0-9a-f])(?<!sha256:)[0-9a-f]{32,}"
    # What looks like base64: long, of one piece, with small and large letters and digits.
    r"|(?<![\w+/])(?=[A-Z0-9+/]*[a-z])(?=[a-z0-9+/]*[A-Z])(?=[A-Za-z+/]*[0-9])"
    r"[A-Za-z0-9+/]{24,}"
)


def test_a11_no_secret_and_no_open_address_is_in_what_we_ship() -> None:
    """Cluster and container files have a test of their own: `tests/unit/test_cluster_files.py`."""
    assert len(OURS) > 2
    for path in OURS:
        text = path.read_text()
        assert "0.0.0.0" not in text, path  # noqa: S104 - what is looked for
        assert ":latest" not in text, path
        assert "password" not in text.lower(), path


def test_a11_nothing_that_we_ship_looks_like_a_secret() -> None:
    files = [path for path in SHIPPED if path.is_file()]
    assert {"cluster.ipynb", "compose.yaml", "Dockerfile"} <= {path.name for path in files}
    found = {path.name: one[0] for path in files for one in SECRETS.finditer(path.read_text())}
    assert found == {}


@pytest.mark.parametrize(
    "text",
    ["HF_TOKEN: hf_aBcDeFgHiJkLmNoPqRsT", "key=AKIAIOSFODNN7EXAMPLE", "token: " + 16 * "0f3a",
     "-----BEGIN OPENSSH PRIVATE KEY-----", "-----BEGIN PRIVATE KEY-----",
     "store: postgresql+psycopg://me:hunter2@db/mlflow", "ghp_aBcDeFgHiJkLmNoPqRsT",
     "AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
     "AccountKey=Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq==",
     "OPENAI_API_KEY=sk-proj-aBcDeFgHiJkLmNoP"],
)  # fmt: skip
def test_a11_the_search_sees_what_it_looks_for(text: str) -> None:
    assert SECRETS.search(text)


@pytest.mark.parametrize(
    "text",
    ["image: postgres:17@sha256:" + 16 * "0f3a", "http://127.0.0.1:5000", "git@github.com:a/b.git",
     "/home/ray/latentune/home/secrets/postgres_password", "orchestrator.service.mlflow_server"],
)  # fmt: skip
def test_a11_the_search_sees_nothing_else(text: str) -> None:
    assert not SECRETS.search(text)
