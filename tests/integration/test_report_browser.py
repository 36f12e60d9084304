"""A person opens the report, and chooses in MLflow: headless Chromium, a real server."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.request
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from mlflow.entities.model_registry import ModelVersion

from orchestrator.manifest import manifest_sha256
from orchestrator.registry import download
from orchestrator.report.writing import write_report
from tests.integration.browser import CHROMIUM, FLAGS, recorder
from tests.integration.mlflow_server import free_port, server
from tests.integration.tracked_search import NAME, Stored, tracked_search
from tests.unit.test_report import tell_search

pytestmark = pytest.mark.slow

WIDTH, HEIGHT = 1100, 6000
MEASURE = """
document.title = JSON.stringify([...document.querySelectorAll("figure")].map((figure) => {
  const place = figure.getBoundingClientRect();
  return [figure.id, place.top, place.bottom];
}));
"""
OUTSIDE = "http://outside.example/x.png"


def browse(page: Path, profile: Path, port: int, *wanted: str) -> str:
    """Open a page in a browser of its own; returns what it writes to stdout."""
    browser = shutil.which(CHROMIUM)
    assert browser, "these tests need Debian's package chromium: apt-get install chromium"
    own = [flag for flag in FLAGS if not flag.startswith(("--window-size", "--virtual-time"))]
    done = subprocess.run(
        [
            browser,
            *own,
            "--hide-scrollbars",
            f"--proxy-server=http://127.0.0.1:{port}",
            "--proxy-bypass-list=<-loopback>",
            f"--user-data-dir={profile}",
            f"--window-size={WIDTH},{HEIGHT}",
            *wanted,
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    return done.stdout


def figure_places(page: Path, scratch: Path, port: int) -> dict[str, tuple[int, int]]:
    """First and last pixel row of each figure, from a copy of the page that may run a script."""
    text = re.sub('<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text())
    copy = scratch / "measured.html"
    copy.write_text(text.replace("</body>", f"<script>{MEASURE}</script></body>"))
    dom = browse(copy, scratch / "measuring", port, "--dump-dom")
    (title,) = re.findall("<title>(.*?)</title>", dom)
    return {name: (int(top), int(bottom)) for name, top, bottom in json.loads(unescape(title))}


def test_the_report_is_drawn_and_asks_for_nothing(tmp_path: Path) -> None:
    folder = tell_search(tmp_path / "home")
    page = Path(write_report(folder, "sqlite:////nowhere.db", page=tmp_path / "r.html").page)
    leaky = tmp_path / "leaky.html"
    leaky.write_text(f'<img src="{OUTSIDE}">')
    with recorder() as (port, asked):
        browse(page, tmp_path / "first", port, f"--screenshot={tmp_path / 'r.png'}")
        assert asked == []
        browse(leaky, tmp_path / "second", port, f"--screenshot={tmp_path / 'leaky.png'}")
        assert OUTSIDE in asked  # or the recorder sees nothing at all
        places = figure_places(page, tmp_path, port)
    assert set(places) == {"scatter", "cost", "importance", "effects", "curves", "timeline"}
    seen = imread(tmp_path / "r.png")[..., :3]
    for name, (top, bottom) in places.items():
        assert 100 < bottom - top and bottom < HEIGHT, name
        drawn = np.ptp(seen[top:bottom], axis=-1) > 0.2  # colour: axes and words are grey
        assert drawn.sum() > 100, f"{name} is blank"


def test_an_alias_that_is_moved_by_rest_is_what_pull_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with tracked_search(tmp_path / "home") as search:
        search.tell_all()
        assert search.ship()
        artifacts = search.folder / "artifacts"
        numbers = {v.tags["trial_uid"]: v.version for v in _versions(search.uri)}
        with server(search.home, free_port(), proxied=True) as url:
            for uid in (f"{NAME}-0", f"{NAME}-3", f"{NAME}-0"):
                _move(url, "champion", str(numbers[uid]))
                to = tmp_path / f"pulled-{len(list(tmp_path.iterdir()))}"
                pulled = download(NAME, to=to, home=search.home, tracking_uri=url)
                assert manifest_sha256(pulled) == manifest_sha256(artifacts / uid)
            to = tmp_path / "trial"
            trial = download(f"{NAME}@trial-1", to=to, home=search.home, tracking_uri=url)
            assert manifest_sha256(trial) == manifest_sha256(artifacts / f"{NAME}-1")


def _versions(uri: str) -> list[ModelVersion]:
    return list(Stored(uri).client.search_model_versions(f"name = '{NAME}'"))


def _move(url: str, alias: str, version: str) -> None:
    body = json.dumps({"name": NAME, "alias": alias, "version": version}).encode()
    request = urllib.request.Request(  # noqa: S310 - our own server
        f"{url}/api/2.0/mlflow/registered-models/alias",
        data=body,
        headers={"Content-Type": "application/json"},
        method="POST",
    )
    with urllib.request.urlopen(request, timeout=30) as reply:  # noqa: S310
        assert reply.status == 200
