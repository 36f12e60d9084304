import hashlib
from pathlib import Path

import pytest

from orchestrator.errors import ManifestError
from orchestrator.manifest import ARTIFACT_FILES, manifest_sha256


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "artifact"
    folder.mkdir()
    for name in ARTIFACT_FILES:
        (folder / name).write_text(f"content of {name}")
    return folder


def test_the_digest_is_that_of_the_sorted_lines(folder: Path) -> None:
    lines = sorted(
        f"{hashlib.sha256(f'content of {name}'.encode()).hexdigest()}  {name}\n"
        for name in ("latent_config.json", "latents.safetensors", "README.md")
    )
    assert manifest_sha256(folder) == hashlib.sha256("".join(lines).encode()).hexdigest()


@pytest.mark.parametrize("name", ARTIFACT_FILES)
def test_every_file_counts(folder: Path, name: str) -> None:
    before = manifest_sha256(folder)
    (folder / name).write_text("tampered")
    assert manifest_sha256(folder) != before


@pytest.mark.parametrize("name", ARTIFACT_FILES)
def test_a_missing_file_is_refused_by_name(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ManifestError, match=name):
        manifest_sha256(folder)


def test_anything_else_is_refused(folder: Path) -> None:
    (folder / "weights.pkl").write_bytes(b"")
    with pytest.raises(ManifestError, match=r"weights\.pkl"):
        manifest_sha256(folder)


def test_links_and_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    readme = folder / "README.md"
    (tmp_path / "elsewhere").write_text(readme.read_text())
    readme.unlink()
    readme.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ManifestError, match="link"):
        manifest_sha256(folder)
    readme.unlink()
    readme.mkdir()
    with pytest.raises(ManifestError, match="no plain file"):
        manifest_sha256(folder)
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(ManifestError, match="no folder"):
        manifest_sha256(tmp_path / "link")
