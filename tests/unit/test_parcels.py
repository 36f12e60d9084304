"""Files that reach an engine's machine: in place where they are there, fetched whole where not."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from orchestrator.engines import parcels
from orchestrator.engines.parcels import Depot, Parcel, Provisions, fetch
from orchestrator.engines.ray_fleet import parcels_of
from orchestrator.errors import ParcelError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "driver" / "model"
    (made / "sub").mkdir(parents=True)
    (made / "config.json").write_text("{}")
    (made / "weights").write_bytes(bytes(range(256)) * 40)
    (made / "sub" / "empty").write_bytes(b"")
    (made / ".hidden").write_text("stays")
    return made


class Reads:
    """A depot's methods by name, counted; `spoil` changes what is read."""

    def __init__(self, parcel: Parcel) -> None:
        self.depot = Depot({parcel.path: parcel})
        self.calls: Counter[str] = Counter()
        self.spoil = False

    def __call__(self, method: str, *arguments: Any) -> Any:
        self.calls[method] += 1
        answer = getattr(self.depot, method)(*arguments)
        return answer[:-1] if self.spoil and method == "piece" else answer


def elsewhere(parcel: Parcel) -> Parcel:
    """A parcel as another machine sees it: nothing is where the driver has it."""
    return Parcel(parcel.path, "/not/here", parcel.is_folder, parcel.sizes)


def test_a_folder_is_used_where_it_lies(folder: Path, tmp_path: Path) -> None:
    provisions = Provisions(tmp_path / "node")
    provisions.provide({str(folder): Parcel.of(str(folder))}, None)
    assert provisions.path(str(folder)) == str(folder)
    assert provisions.path("org/model") == "org/model"
    assert not (tmp_path / "node").exists()


def test_a_folder_is_fetched_once_in_pieces(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parcels, "PIECE_BYTES", 1000)
    parcel = Parcel.of(str(folder))
    reads = Reads(parcel)
    for _ in range(2):  # the second engine of the node
        provisions = Provisions(tmp_path / "node")
        provisions.provide({str(folder): elsewhere(parcel)}, reads)
    here = Path(provisions.path(str(folder)))
    assert here.is_relative_to(tmp_path / "node")
    assert (here / "weights").read_bytes() == (folder / "weights").read_bytes()
    assert (here / "sub" / "empty").read_bytes() == b""
    assert not (here / ".hidden").exists()
    assert reads.calls["piece"] == 11 + 1  # 10,240 bytes and two, each once


def test_what_is_cut_short_never_gets_its_name(folder: Path, tmp_path: Path) -> None:
    parcel = Parcel.of(str(folder))
    reads = Reads(parcel)
    reads.spoil = True
    with pytest.raises(ParcelError, match="arrived with the SHA-256"):
        fetch(elsewhere(parcel), reads, tmp_path / "node")
    assert not [path for path in (tmp_path / "node").iterdir() if path.is_dir()]
    reads.spoil = False
    assert (fetch(elsewhere(parcel), reads, tmp_path / "node") / "config.json").exists()


def test_a_damaged_copy_is_fetched_again(folder: Path, tmp_path: Path) -> None:
    parcel = Parcel.of(str(folder))
    reads = Reads(parcel)
    here = fetch(elsewhere(parcel), reads, tmp_path / "node")
    (here / "weights").write_bytes(b"torn")
    again = fetch(elsewhere(parcel), reads, tmp_path / "node")
    assert (again / "weights").read_bytes() == (folder / "weights").read_bytes()


@pytest.mark.parametrize("name", ["../../escape", "/etc/x", "a/../b", "a\\b", ""])
def test_a_file_stays_in_its_folder(name: str, tmp_path: Path) -> None:
    parcel = Parcel("p", "/not/here", True, {name: 1})
    with pytest.raises(ParcelError, match="leads elsewhere"):
        fetch(parcel, lambda *_: "", tmp_path / "node")
    assert not (tmp_path / "node").exists()


def test_a_depot_gives_out_its_parcels_alone(folder: Path) -> None:
    depot = Depot({str(folder): Parcel.of(str(folder))})
    with pytest.raises(ParcelError, match="has no file"):
        depot.piece(str(folder), ".hidden", 0)
    with pytest.raises(KeyError):
        depot.piece("/etc", "passwd", 0)


def test_without_a_depot_what_is_missing_is_said(folder: Path, tmp_path: Path) -> None:
    provisions = Provisions(tmp_path / "node")
    with pytest.raises(ParcelError, match="on the driver's machine"):
        provisions.provide({"p": elsewhere(Parcel.of(str(folder)))}, None)


def test_a_task_reads_the_files_of_its_machine(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("{}\n")
    options = {"kind": "records", "train": ["rows"], "sha256": {"train": {"rows": "d1"}}}
    parcel = Parcel("rows", "/not/here", False, {"rows.jsonl": 3})
    provisions = Provisions(tmp_path / "node")
    depot = Depot({"rows": Parcel("rows", str(file), False, {"rows.jsonl": 3})})
    provisions.provide({"rows": parcel}, lambda method, *rest: getattr(depot, method)(*rest))
    here = provisions.here(options)
    (path,) = here["train"]
    assert Path(path).read_text() == "{}\n"
    assert Path(path).name == "rows.jsonl"  # its suffix tells the format
    assert here == {"kind": "records", "train": [path], "sha256": {"train": {path: "d1"}}}
    assert provisions.cache(str(tmp_path / "cache" / "records")) == tmp_path / "cache" / "records"
    assert provisions.cache("/no/home/cache/records") == tmp_path / "node" / "records"


def test_what_a_search_sends(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("{}\n")
    task = {"kind": "records", "sha256": {"train": {str(file): "d"}, "val_id": {str(file): "d"}}}
    found = parcels_of({"path": str(folder)}, task)
    assert set(found) == {str(folder), str(file)}
    assert set(found[str(folder)].sizes) == {"config.json", "weights", "sub/empty"}
    assert parcels_of({"path": "bundled"}, {"kind": "generation"}) == {}
