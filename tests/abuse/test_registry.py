"""Abuse A19 and A20: a forged tag, and a pull while the store changes."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.errors import ManifestError
from orchestrator.folders import SearchFolder
from orchestrator.manifest import ARTIFACT_FILES, manifest_sha256
from orchestrator.registry import MANIFEST_TAG, download
from orchestrator.told_manifests import check_told
from tests.integration.tracked_search import NAME, Stored, TrackedSearch, tracked_search


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackedSearch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        with tracked_search(tmp_path_factory.mktemp("shipped") / "home") as search:
            search.tell_all()
            assert search.ship()
            yield search


def forge(search: TrackedSearch, folder: Path) -> str:
    """Register files of one's own as the champion, with a digest that fits them."""
    folder.mkdir()
    for name in ARTIFACT_FILES:
        (folder / name).write_text(f"not the search's {name}")
    client = Stored(search.uri).client
    digest = manifest_sha256(folder)
    tags = {MANIFEST_TAG: digest, "trial_uid": f"{NAME}-0"}
    made = client.create_model_version(NAME, folder.as_uri(), tags=tags)
    client.set_registered_model_alias(NAME, "champion", made.version)
    return str(made.version)


def test_a19_a_forged_winner_is_not_pulled(shipped: TrackedSearch, tmp_path: Path) -> None:
    """Its digest fits its files; but the search's own log does not know it."""
    version = forge(shipped, tmp_path / "evil")
    client = Stored(shipped.uri).client
    try:
        for name in (NAME, f"{NAME}@champion", f"{NAME}@v{version}"):
            with pytest.raises(ManifestError, match="tells of no such folder"):
                download(name, to=tmp_path / "to", home=shipped.home)
        assert not (tmp_path / "to").exists()
    finally:
        client.delete_registered_model_alias(NAME, "champion")
        client.delete_model_version(NAME, version)


def test_a19_a_forged_tag_on_a_trial_s_run_is_seen(shipped: TrackedSearch, tmp_path: Path) -> None:
    store = Stored(shipped.uri)
    run = store.client.search_runs(
        [store.experiment.experiment_id], f"tags.trial_uid = '{NAME}-0'"
    )[0]
    sound = run.data.tags[MANIFEST_TAG]
    store.client.set_tag(run.info.run_id, MANIFEST_TAG, "0" * 64)
    try:
        with pytest.raises(ManifestError, match="tells of no such folder"):
            download(f"{NAME}@trial-0", to=tmp_path / "to", home=shipped.home)
    finally:
        store.client.set_tag(run.info.run_id, MANIFEST_TAG, sound)
    assert download(f"{NAME}@trial-0", to=tmp_path / "to", home=shipped.home).exists()


def test_a19_a_version_with_the_files_of_another_trial_is_seen(
    shipped: TrackedSearch, tmp_path: Path
) -> None:
    """The digest is one that the search told of, but not of the trial that the version names."""
    client = Stored(shipped.uri).client
    cut = client.get_run(Stored(shipped.uri).runs[f"{NAME}-1"].info.run_id)
    digest = cut.data.tags[MANIFEST_TAG]
    source = f"{cut.info.artifact_uri}/latents/{digest[:12]}"
    for tags in ({"trial_uid": f"{NAME}-3"}, {}):
        made = client.create_model_version(NAME, source, tags={MANIFEST_TAG: digest} | tags)
        client.set_registered_model_alias(NAME, "champion", made.version)
        try:
            with pytest.raises(ManifestError, match="tells of no such folder"):
                download(NAME, to=tmp_path / "to", home=shipped.home)
        finally:
            client.delete_registered_model_alias(NAME, "champion")
            client.delete_model_version(NAME, made.version)


def test_a19_where_nothing_is_known_the_tag_has_to_do(tmp_path: Path) -> None:
    check_told(SearchFolder.of(tmp_path, NAME), "0" * 64, None, NAME)  # run on another machine


def test_a20_a_pull_beside_others_is_whole_or_not_there(
    shipped: TrackedSearch, tmp_path: Path
) -> None:
    """Four at once into one folder: whoever looks sees nothing, or all three files."""
    target, seen, errors = tmp_path / "to", set[tuple[str, ...]](), list[BaseException]()
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            if target.exists():
                seen.add(tuple(sorted(path.name for path in target.iterdir())))

    def fetch() -> None:
        try:
            download(f"{NAME}@candidate", to=target, home=shipped.home)
        except OSError as error:  # another one was first: said, and nothing half-done is left
            errors.append(error)

    watcher = threading.Thread(target=look)
    watcher.start()
    fetchers = [threading.Thread(target=fetch) for _ in range(4)]
    for one in fetchers:
        one.start()
    for one in fetchers:
        one.join()
    over.set()
    watcher.join()
    assert seen <= {tuple(sorted(ARTIFACT_FILES))}
    assert manifest_sha256(target) == manifest_sha256(shipped.folder / f"artifacts/{NAME}-3")
    assert len(errors) < len(fetchers)
    assert [path.name for path in tmp_path.iterdir()] == ["to"]


def test_a20_half_uploaded_files_are_never_given_out(
    shipped: TrackedSearch, tmp_path: Path
) -> None:
    store = Stored(shipped.uri)
    version = store.client.get_model_version_by_alias(NAME, "candidate")
    files = Path(str(version.source).removeprefix("file://"))
    shutil.copytree(files, tmp_path / "kept")
    content = (files / "latents.safetensors").read_bytes()
    try:
        for half in (content[: len(content) // 2], b""):
            (files / "latents.safetensors").write_bytes(half)
            with pytest.raises(ManifestError, match="were changed after registration"):
                download(NAME, to=tmp_path / "to", home=shipped.home)
        (files / "latents.safetensors").unlink()
        with pytest.raises(ManifestError, match="lacks"):
            download(NAME, to=tmp_path / "to", home=shipped.home)
        assert not (tmp_path / "to").exists()
    finally:
        shutil.copytree(tmp_path / "kept", files, dirs_exist_ok=True)
