"""Files that a driver's machine has and an engine's machine lacks: a model's folder, data files.

    driver: Parcel (names, sizes) ─► engine: are they here?  yes ─► used in place
                                                             no  ─► fetched in pieces, once per
                                                                    node, checked by SHA-256

A shared file system, or one machine, costs nothing but a look. What is fetched lies under the
node's own cache, by its digest, appears whole or not at all, and is found again by the next
engine. Model ids are no parcels: each node takes them from its own HF_HOME, or downloads them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from filelock import FileLock

from orchestrator.errors import ParcelError

PIECE_BYTES = 32 * 2**20  # what of a file is in memory and in Ray's object store at a time


@dataclass(frozen=True)
class Parcel:
    """A file or a folder of the driver's machine.

    Args:
        path: as the search's configuration names it.
        absolute: where it is, for whoever shares the file system.
        is_folder: whether `sizes` are of files in it; else of itself alone.
        sizes: name within the folder to bytes.
    """

    path: str
    absolute: str
    is_folder: bool
    sizes: dict[str, int]

    @classmethod
    def of(cls, path: str) -> Parcel:
        """Look at what is there; names that are links count as what they lead to."""
        here = Path(path).absolute()
        if not here.is_dir():
            return cls(path, str(here), False, {here.name: here.stat().st_size})
        files = {str(file.relative_to(here).as_posix()): file for file in _files(here)}
        sizes = {name: file.stat().st_size for name, file in sorted(files.items())}
        return cls(path, str(here), True, sizes)

    def file(self, name: str) -> Path:
        """Where one of its files is on the driver's machine."""
        return Path(self.absolute, name) if self.is_folder else Path(self.absolute)


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden:
            yield path


class Depot:
    """The driver's machine as a source of parcels; an actor there, for engines elsewhere.

    Args:
        parcels: by path; nothing else is given out.
    """

    def __init__(self, parcels: Mapping[str, Parcel]) -> None:
        self._parcels = dict(parcels)
        self._digests: dict[tuple[str, str], str] = {}

    def digest(self, path: str, name: str) -> str:
        """The SHA-256 of one file."""
        if (path, name) not in self._digests:
            with self._parcels[path].file(name).open("rb") as file:
                self._digests[path, name] = hashlib.file_digest(file, "sha256").hexdigest()
        return self._digests[path, name]

    def piece(self, path: str, name: str, offset: int) -> bytes:
        """A piece of one file."""
        parcel = self._parcels[path]
        if name not in parcel.sizes:
            raise ParcelError(f"{path!r} has no file {name!r}")
        with parcel.file(name).open("rb") as file:
            file.seek(offset)
            return file.read(PIECE_BYTES)


# Calls a depot's method by name.
Read: TypeAlias = Callable[..., Any]


@dataclass
class Provisions:
    """What of the drivers' files is on this node, and where.

    Args:
        folder: the node's own cache.
    """

    folder: Path
    _here: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of_this_node(cls) -> Provisions:
        """With the user's cache folder."""
        return cls(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "latentune")

    def provide(self, parcels: Mapping[str, Parcel], read: Read | None) -> None:
        """Find each parcel here, or fetch it.

        Args:
            read: of a depot; None where everything is on this machine.

        Raises:
            ParcelError: if a parcel is not here and cannot be had whole.
        """
        for path, parcel in parcels.items():
            if _is_in_place(parcel):
                self._here[path] = parcel.absolute
            elif read is None:
                raise ParcelError(
                    f"{path!r} is on the driver's machine and not on this one, and nothing was "
                    "given to fetch it from"
                )
            else:
                self._here[path] = str(fetch(parcel, read, self.folder / "parcels"))

    def path(self, named: str) -> str:
        """Where a path of the driver's is here; itself if nobody provided it."""
        return self._here.get(named, named)

    def here(self, options: Any) -> Any:
        """A task's options with the paths of this machine."""
        if isinstance(options, dict):
            return {self.here(key): self.here(value) for key, value in options.items()}
        if isinstance(options, list | tuple):
            return [self.here(value) for value in options]
        return self.path(options) if isinstance(options, str) else options

    def cache(self, named: str) -> Path:
        """Where encoded rows are kept: under the driver's home where that is here as well."""
        path = Path(named)
        return path if path.parents[1].is_dir() else self.folder / "records"


def fetch(parcel: Parcel, read: Read, cache: Path) -> Path:
    """Bring a parcel to this node, once, however many engines ask.

    Returns:
        The folder, or the file.

    Raises:
        ParcelError: if a file arrives that is not the one that was sent, or has no proper name.
    """
    for name in parcel.sizes:
        _check_name(name)
    digests = {name: str(read("digest", parcel.path, name)) for name in parcel.sizes}
    key = hashlib.sha256(repr(sorted(digests.items())).encode()).hexdigest()[:32]
    target = cache / key
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f".{key}.lock"):
        if not _has_all(target, parcel):
            _make(target, parcel, digests, read)
    return target if parcel.is_folder else target / next(iter(parcel.sizes))


def _make(target: Path, parcel: Parcel, digests: Mapping[str, str], read: Read) -> None:
    """Write all files aside, then give the folder its name; a torn one of before goes."""
    scratch = target.with_name(f".{target.name}.making")
    for old in (scratch, target):
        shutil.rmtree(old, ignore_errors=True)
    try:
        for name, size in parcel.sizes.items():
            _fetch_file(scratch / name, parcel, name, size, digests[name], read)
        scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _fetch_file(to: Path, parcel: Parcel, name: str, size: int, expected: str, read: Read) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    digest, done = hashlib.sha256(), 0
    with to.open("wb") as file:
        while done < size:
            piece = read("piece", parcel.path, name, done)
            if not piece:
                break
            file.write(piece)
            digest.update(piece)
            done += len(piece)
        file.flush()
        os.fsync(file.fileno())
    if digest.hexdigest() != expected:
        raise ParcelError(
            f"{name} of {parcel.path!r} arrived with the SHA-256 {digest.hexdigest()[:12]}…, "
            f"expected {expected[:12]}…: it was changed, or cut short, on its way; is it being "
            "written on the driver's machine?"
        )


def _is_in_place(parcel: Parcel) -> bool:
    here = Path(parcel.absolute)
    if not parcel.is_folder:
        return here.is_file() and here.stat().st_size == next(iter(parcel.sizes.values()))
    return _has_all(here, parcel)


def _has_all(folder: Path, parcel: Parcel) -> bool:
    files = {name: folder / name for name in parcel.sizes}
    return all(
        file.is_file() and file.stat().st_size == parcel.sizes[name] for name, file in files.items()
    )


def _check_name(name: str) -> None:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
        raise ParcelError(f"a parcel holds a file of the name {name!r}, which leads elsewhere")
