import logging
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest

from orchestrator.errors import (
    ManifestError,
    SearchNotFoundError,
    TargetExistsError,
    TrackingError,
)
from orchestrator.manifest import ARTIFACT_FILES, manifest_sha256
from orchestrator.registering import register_trial
from orchestrator.registry import download
from tests.integration.tracked_search import NAME, Stored, TrackedSearch, tracked_search


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackedSearch]:
    with tracked_search(tmp_path_factory.mktemp("shipped") / "my home") as search:
        search.tell_all()
        assert search.ship()
        yield search


@pytest.fixture
def search(
    shipped: TrackedSearch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[TrackedSearch]:
    """Registered once; whatever a test does to the stored files is undone."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copytree(shipped.home / "mlartifacts", tmp_path / "kept")
    yield shipped
    shutil.rmtree(shipped.home / "mlartifacts")
    shutil.copytree(tmp_path / "kept", shipped.home / "mlartifacts")


def candidate_files(search: TrackedSearch) -> Path:
    version = Stored(search.uri).client.get_model_version_by_alias(NAME, "candidate")
    return Path(url2pathname(urlsplit(str(version.source)).path))


def test_the_candidate_is_pulled_with_a_warning_and_verified(
    search: TrackedSearch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        folder = download(NAME, to=tmp_path / "deep" / "here", home=search.home)
    assert "no champion yet" in caplog.text
    assert folder == tmp_path / "deep" / "here"
    assert manifest_sha256(folder) == manifest_sha256(search.folder / f"artifacts/{NAME}-3")
    assert [path.name for path in folder.parent.iterdir()] == ["here"]  # nothing is left beside


@pytest.mark.parametrize(
    ("name", "options"),
    [(f"{NAME}@candidate", {}), (NAME, {"alias": "candidate"}), (NAME, {"version": 2})],
)
def test_an_alias_or_a_version_says_which(
    search: TrackedSearch, caplog: pytest.LogCaptureFixture, name: str, options: dict[str, str]
) -> None:
    folder = download(name, home=search.home, **options)  # type: ignore[arg-type]
    assert manifest_sha256(folder) == manifest_sha256(search.folder / f"artifacts/{NAME}-3")
    assert not [record for record in caplog.records if record.name == "orchestrator.registry"]


def test_the_champion_comes_first(search: TrackedSearch, tmp_path: Path) -> None:
    client = Stored(search.uri).client
    client.set_registered_model_alias(NAME, "champion", "1")
    try:
        folder = download(NAME, to=tmp_path / "to", home=search.home)
    finally:
        client.delete_registered_model_alias(NAME, "champion")
    assert manifest_sha256(folder) == manifest_sha256(search.folder / f"artifacts/{NAME}-0")


def test_pulling_again_takes_what_is_there(search: TrackedSearch, tmp_path: Path) -> None:
    first = download(NAME, to=tmp_path / "to", home=search.home)
    inode = (first / "latents.safetensors").stat().st_ino
    again = download(NAME, to=tmp_path / "to", home=search.home)
    assert (again / "latents.safetensors").stat().st_ino == inode


@pytest.mark.parametrize("name", ARTIFACT_FILES)
def test_a_tampered_file_is_refused_and_nothing_written(
    search: TrackedSearch, tmp_path: Path, name: str
) -> None:
    (candidate_files(search) / name).write_bytes(b"tampered")
    with pytest.raises(ManifestError, match="changed after registration"):
        download(NAME, to=tmp_path / "out" / "to", home=search.home)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_link_and_a_foreign_file_in_the_store_are_refused(
    search: TrackedSearch, tmp_path: Path
) -> None:
    source = candidate_files(search)
    (source / "weights.pkl").write_bytes(b"")
    with pytest.raises(ManifestError, match=r"weights\.pkl"):
        download(NAME, to=tmp_path / "to", home=search.home)
    (source / "weights.pkl").unlink()
    (source / "README.md").rename(tmp_path / "README.md")
    (source / "README.md").symlink_to(tmp_path / "README.md")
    with pytest.raises(ManifestError, match="link"):
        download(NAME, to=tmp_path / "to", home=search.home)
    assert not (tmp_path / "to").exists()


def test_a_target_that_holds_something_is_left_alone(search: TrackedSearch, tmp_path: Path) -> None:
    target = tmp_path / "to"
    target.mkdir()
    assert download(NAME, to=target, home=search.home) == target  # empty is fine
    (target / "README.md").write_text("mine now")
    with pytest.raises(TargetExistsError, match="another version"):
        download(NAME, to=target, home=search.home)
    (target / "notes.txt").write_text("mine")
    with pytest.raises(TargetExistsError, match=r"notes\.txt"):
        download(NAME, to=target, home=search.home)
    assert (target / "README.md").read_text() == "mine now"
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(TargetExistsError, match="in the way"):
        download(NAME, to=tmp_path / "link", home=search.home)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no-such-search", "not in the registry"),
        (f"{NAME}@champion", "aliases: candidate"),
        ("../etc", "no search name"),
        ("a' OR name='b", "no search name"),
        (f"{NAME}@a b", "no alias"),
    ],
)
def test_a_name_that_leads_nowhere_says_so(search: TrackedSearch, name: str, message: str) -> None:
    with pytest.raises(SearchNotFoundError, match=message):
        download(name, home=search.home)
    with pytest.raises(SearchNotFoundError, match="version 9"):
        download(NAME, version=9, home=search.home)


def test_an_empty_home_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(SearchNotFoundError, match="nothing was ever stored"):
        download(NAME, home=tmp_path / "home")
    assert not (tmp_path / "home").exists()


def test_a_server_that_is_away_is_said_soon_and_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="cannot read from") as caught:
        download(NAME, home=tmp_path, tracking_uri="http://me:secret@127.0.0.1:9")
    assert "secret" not in str(caught.value)


def test_a_version_that_others_registered_is_refused(search: TrackedSearch, tmp_path: Path) -> None:
    client = Stored(search.uri).client
    client.create_registered_model("foreign")
    client.create_model_version("foreign", candidate_files(search).as_uri())
    with pytest.raises(ManifestError, match="no tag manifest_sha256"):
        download("foreign", version=1, to=tmp_path / "to", home=search.home)


def test_any_trial_is_pulled_registered_or_not(search: TrackedSearch, tmp_path: Path) -> None:
    pruned = download(f"{NAME}@trial-1", to=tmp_path / "pruned", home=search.home)
    assert manifest_sha256(pruned) == manifest_sha256(search.folder / f"artifacts/{NAME}-1")
    complete = download(NAME, trial=3, to=tmp_path / "complete", home=search.home)
    assert manifest_sha256(complete) == manifest_sha256(search.folder / f"artifacts/{NAME}-3")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (f"{NAME}@trial-2", "state: failed"),
        (f"{NAME}@trial-77", "no trial 77 in the tracking store; it has 0, 1, 2, 3"),
        ("other@trial-0", "no search 'other'"),
        (f"{NAME}@v77", "version 77 is not in the registry"),
    ],
)
def test_a_trial_or_a_version_that_is_not_there_says_so(
    search: TrackedSearch, name: str, message: str
) -> None:
    with pytest.raises(SearchNotFoundError, match=message):
        download(name, home=search.home)


def test_a_tampered_trial_is_refused(search: TrackedSearch, tmp_path: Path) -> None:
    run = Stored(search.uri).runs[f"{NAME}-1"]
    folder = Path(url2pathname(urlsplit(run.info.artifact_uri).path)) / "latents"
    (file,) = folder.glob("*/latents.safetensors")
    file.write_bytes(b"tampered")
    with pytest.raises(ManifestError, match="changed after registration"):
        download(NAME, trial=1, to=tmp_path / "to", home=search.home)


def test_finished_trials_are_versions_that_say_what_they_scored(search: TrackedSearch) -> None:
    _, _, versions, _ = Stored(search.uri).everything()
    by_uid = {tags["trial_uid"]: tags for _, _, tags in versions}
    assert set(by_uid) >= {f"{NAME}-0", f"{NAME}-3"}
    assert by_uid[f"{NAME}-3"]["val_ood/exact_match"] == "0.9"
    assert by_uid[f"{NAME}-3"]["strategy"] == "start4"


def test_a_trial_that_was_cut_early_is_registered_by_hand(
    search: TrackedSearch, tmp_path: Path
) -> None:
    made = register_trial(NAME, 1, home=search.home)
    assert (made.trial_uid, made.alias) == (f"{NAME}-1", None)
    client = Stored(search.uri).client
    try:
        again = register_trial(NAME, 1, home=search.home, alias="champion")
        assert again.version == made.version  # the same files are the same version
        folder = download(NAME, to=tmp_path / "to", home=search.home)
    finally:
        client.delete_registered_model_alias(NAME, "champion")
    assert manifest_sha256(folder) == manifest_sha256(search.folder / f"artifacts/{NAME}-1")
    with pytest.raises(SearchNotFoundError, match="no alias"):
        register_trial(NAME, 1, home=search.home, alias="v1")


def test_a_forged_tag_is_refused_by_the_search_s_own_event_log(
    search: TrackedSearch, tmp_path: Path
) -> None:
    """Files and tag agree with each other, and are not what the search handed over."""
    client = Stored(search.uri).client
    source = candidate_files(search)
    (source / "README.md").write_text("other files")
    forged, before = manifest_sha256(source), manifest_sha256(search.folder / f"artifacts/{NAME}-3")
    version = client.get_model_version_by_alias(NAME, "candidate").version
    run = Stored(search.uri).runs[f"{NAME}-3"].info.run_id
    client.set_model_version_tag(NAME, version, "manifest_sha256", forged)
    client.set_tag(run, "manifest_sha256", forged)
    try:
        for name in (NAME, f"{NAME}@trial-3"):
            with pytest.raises(ManifestError, match=r"events.jsonl|event log .* no such folder"):
                download(name, to=tmp_path / "to", home=search.home)
        with pytest.raises(ManifestError, match="no such folder"):
            register_trial(NAME, 3, home=search.home)
    finally:
        client.set_model_version_tag(NAME, version, "manifest_sha256", before)
        client.set_tag(run, "manifest_sha256", before)
    assert not (tmp_path / "to").exists()


def test_another_trial_s_digest_on_a_trial_is_a_forged_tag(
    search: TrackedSearch, tmp_path: Path
) -> None:
    stored = Stored(search.uri)
    run = stored.runs[f"{NAME}-1"].info.run_id
    own, other = (manifest_sha256(search.folder / f"artifacts/{NAME}-{n}") for n in (1, 3))
    stored.client.set_tag(run, "manifest_sha256", other)
    try:
        with pytest.raises(ManifestError, match="its tag was changed"):
            download(NAME, trial=1, to=tmp_path / "to", home=search.home)
    finally:
        stored.client.set_tag(run, "manifest_sha256", own)


@pytest.mark.parametrize("name", ARTIFACT_FILES)
def test_a_file_that_was_cut_short_is_named(
    search: TrackedSearch, tmp_path: Path, name: str
) -> None:
    path = candidate_files(search) / name
    path.write_bytes(path.read_bytes()[:-2])
    size = path.stat().st_size
    with pytest.raises(ManifestError, match=rf"{name} \({size} bytes\) at .*cut short on the way"):
        download(NAME, to=tmp_path / "to", home=search.home)
    assert list(tmp_path.glob("*to*")) == []


def test_pulls_beside_an_alias_that_moves_get_one_version_or_the_other(
    search: TrackedSearch, tmp_path: Path
) -> None:
    client = Stored(search.uri).client
    sound = {manifest_sha256(search.folder / f"artifacts/{NAME}-{number}") for number in (0, 3)}
    over, seen = threading.Event(), set()

    def move() -> None:
        while not over.is_set():
            for version in ("1", "2"):
                client.set_registered_model_alias(NAME, "champion", version)

    moving = threading.Thread(target=move)
    moving.start()
    try:
        for number in range(12):
            seen.add(manifest_sha256(download(NAME, to=tmp_path / str(number), home=search.home)))
    finally:
        over.set()
        moving.join()
        client.delete_registered_model_alias(NAME, "champion")
    assert seen <= sound
