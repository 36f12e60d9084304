"""A person looks: the MLflow UI in headless Chromium (Debian's package `chromium`)."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.browser import CHROMIUM, FLAGS, recorder
from tests.integration.mlflow_server import free_port, server
from tests.integration.tracked_search import (
    NAME,
    OBJECTIVE,
    Stored,
    TrackedSearch,
    tracked_search,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def search(tmp_path: Path) -> Iterator[TrackedSearch]:
    with tracked_search(tmp_path / "home") as found:
        yield found


def page(url: str, profile: Path) -> str:
    """The page's own elements, once its scripts have run; nothing of it left the machine.

    A profile remembers the filters of the page before: each page has its own.
    """
    browser = shutil.which(CHROMIUM)
    assert browser, "these tests need Debian's package chromium: apt-get install chromium"
    with recorder() as (port, asked):  # a proxy, which requests to this machine pass by
        proxy = f"--proxy-server=http://127.0.0.1:{port}"
        command = [browser, *FLAGS, proxy, f"--user-data-dir={profile}", "--dump-dom", url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert asked == [], "asked of other machines"
    return done.stdout


def test_a_page_that_asks_another_machine_is_seen(tmp_path: Path) -> None:
    leaky = tmp_path / "leaky.html"
    leaky.write_text('<img src="http://outside.example/x.png">')
    with pytest.raises(AssertionError, match=r"outside\.example"):
        page(leaky.as_uri(), tmp_path / "profile")


def test_runs_sort_by_the_score_out_of_distribution(search: TrackedSearch, tmp_path: Path) -> None:
    search.start()
    scores = {"end4": 0.2, "every4x8": 0.9, "start4": 0.5}
    for number, (name, score) in enumerate(scores.items()):
        uid = search.start_trial(number, name=name)
        search.report(uid, 60, score)
        search.end_trial(uid, "complete", 60, score)
    search.end()
    assert search.ship()
    experiment = Stored(search.uri).experiment.experiment_id
    sort = f"orderByKey=metrics.%60{OBJECTIVE.replace('/', '%2F')}%60"
    only = f"searchFilter=tags.trial_uid+LIKE+%27{NAME}%25%27"
    with server(search.home, free_port(), proxied=False) as url:
        for ascending in ("true", "false"):
            runs = page(
                f"{url}/#/experiments/{experiment}/runs?{only}&{sort}&orderByAsc={ascending}",
                tmp_path / ascending,
            )
            rows = [(_row_of(runs, name), name) for name in scores]
            best_last = sorted(scores, key=lambda name: scores[name])
            expected = best_last if ascending == "true" else best_last[::-1]
            assert [name for _, name in sorted(rows)] == expected


def _row_of(runs: str, name: str) -> int:
    """The number of the row in which a run's name stands."""
    before, found, _ = runs.partition(f">{name}</")
    assert found, name
    return int(re.findall(r'row-index="(\d+)"', before)[-1])


def test_runs_are_listed_by_name_and_the_candidate_is_there(
    search: TrackedSearch, tmp_path: Path
) -> None:
    search.tell_all()
    assert search.ship()
    experiment = Stored(search.uri).experiment.experiment_id
    with server(search.home, free_port(), proxied=False) as url:
        runs = page(
            f"{url}/#/experiments/{experiment}/runs?searchFilter=tags.trial_uid+LIKE+"
            f"%27{NAME}%25%27&orderByKey=metrics.%60{OBJECTIVE.replace('/', '%2F')}%60",
            tmp_path / "first",
        )
        assert runs.count(">start4</") == 4
        assert "4</strong> matching runs" in runs
        parent = page(f"{url}/#/experiments/{experiment}/runs", tmp_path / "second")
        assert f">{NAME}</" in parent
        model = page(f"{url}/#/models/{NAME}", tmp_path / "third")
        assert "candidate" in model
        assert "Version 2" in model
