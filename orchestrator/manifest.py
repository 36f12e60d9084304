"""One digest for an artifact folder: what was registered is what is pulled.

3f2a…  README.md            sha256 of these sorted lines, newline included,
91c0…  latent_config.json   is the folder's manifest digest
d77b…  latents.safetensors

The digest says whether a folder is the one that it should be; the lines, where they are known and
have that digest, say which file is not.
"""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

from orchestrator.errors import ManifestError

ARTIFACT_FILES = ("README.md", "latent_config.json", "latents.safetensors")


def manifest_sha256(folder: Path) -> str:
    """The digest of an artifact folder, as 64 hex digits.

    Raises:
        ManifestError: where the folder is not exactly the three plain files.
    """
    return lines_sha256(manifest_lines(folder))


def manifest_lines(folder: Path) -> str:
    """The lines of an artifact folder, as `sha256sum --check` reads them.

    Raises:
        ManifestError: where the folder is not exactly the three plain files.
    """
    check_folder(folder)
    return "".join(sorted(f"{_sha256(folder / name)}  {name}\n" for name in ARTIFACT_FILES))


def lines_sha256(lines: str) -> str:
    """The manifest digest that lines have."""
    return hashlib.sha256(lines.encode()).hexdigest()


def check_manifest(folder: Path, expected: str, lines: str, where: str, why: str) -> None:
    """Refuse a folder that has another digest, naming its files that differ.

    Args:
        folder: what was read.
        expected: the digest that it should have.
        lines: those of the digest, as far as anybody knows; "" where nobody does.
        where: it came from.
        why: what that means, and what helps.

    Raises:
        ManifestError: where the digest is another.
    """
    found = manifest_lines(folder)
    if lines_sha256(found) == expected:
        return
    known = set(lines.splitlines()) if lines_sha256(lines) == expected else set()
    other = [line.split("  ")[1] for line in found.splitlines() if known and line not in known]
    sizes = [f"{name} ({(folder / name).stat().st_size} bytes)" for name in other]
    raise ManifestError(
        f"{', '.join(sizes) or 'the files'} at {where}: not what was registered (manifest "
        f"{lines_sha256(found)}, expected {expected}): {why}"
    )


def check_folder(folder: Path) -> None:
    """Refuse a folder that is not exactly the three plain files of an artifact.

    Raises:
        ManifestError: naming what is missing, too much, or no plain file.
    """
    if folder.is_symlink() or not folder.is_dir():
        raise ManifestError(f"{folder} is no folder, expected one with {_listed(ARTIFACT_FILES)}")
    check_names([path.name for path in folder.iterdir()], str(folder))
    for name in ARTIFACT_FILES:
        if not stat.S_ISREG((folder / name).lstat().st_mode):
            raise ManifestError(f"{folder / name} is a link or no plain file: artifacts hold none")


def check_names(names: list[str], where: str) -> None:
    """Refuse a listing that is not exactly the three files of an artifact.

    Raises:
        ManifestError: naming what is missing or too much.
    """
    missing = sorted(set(ARTIFACT_FILES) - set(names))
    foreign = sorted(set(names) - set(ARTIFACT_FILES))
    if missing:
        raise ManifestError(f"{where} lacks {_listed(missing)}: it is no complete artifact folder")
    if foreign:
        raise ManifestError(
            f"{where} holds {_listed(foreign)} beside the three files of an artifact folder "
            f"({_listed(ARTIFACT_FILES)}): take out what is not the artifact's"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _listed(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(repr(name) for name in names[:5]) + (", …" if len(names) > 5 else "")
