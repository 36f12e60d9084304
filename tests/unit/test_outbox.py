import random
from typing import Any

import pytest

from orchestrator.events import Event
from orchestrator.outbox import Outbox
from orchestrator.shipping.batch import Batch, Point

OBJECTIVE = "val_ood/exact_match"


class Story:
    """Events with made-up times, one second apart."""

    def __init__(
        self, steps: int = 540, objective: str = OBJECTIVE, trials: int = 24, **payload: Any
    ) -> None:
        self.events: list[Event] = []
        self.objective = objective
        config = {"budget": {"steps": steps, "trials": trials}}
        payload |= {"search": "s", "experiment": "e", "objective": objective, "config": config}
        self.tell("search_started", **payload)

    def tell(self, type: str, uid: str | None = None, attempt: int = 1, **payload: Any) -> None:
        seq = len(self.events)
        self.events.append(
            Event(
                seq=seq, time=1e9 + seq, trial_uid=uid, attempt=attempt, type=type, payload=payload
            )
        )

    def start(self, uid: str, attempt: int = 1) -> None:
        self.tell("trial_started", uid, attempt, name="start4", params={"optim.lr": 0.1}, config={})

    def report(self, uid: str, step: int, first: int, score: float | None = 0.5) -> None:
        curve = [[s, 1 / s] for s in range(first, step + 1)]
        self.tell("trial_report", uid, step=step, metrics={self.objective: score}, curve=curve)

    def end(self, uid: str, state: str, step: int = 540, score: float | None = 0.5) -> None:
        self.tell("trial_ended", uid, state=state, step=step, metrics={self.objective: score})

    def batch(self) -> Batch:
        outbox = Outbox()
        outbox.add(self.events)
        batch = outbox.take()
        assert batch is not None
        return batch


def test_a_base_model_is_told_by_its_plain_values() -> None:
    story = Story()
    story.events[0].payload["base_model"] = {"path": "bundled", "probe": {"ids": [1]}, "x": 1.0}
    tags = story.batch().parent.tags
    named = {key: tags[key] for key in tags if key.startswith("base_model.")}
    assert named == {"base_model.path": "bundled", "base_model.x": "1.0"}


def test_nothing_is_asked_for_before_a_search_started() -> None:
    assert Outbox().take() is None


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("complete", "FINISHED"),
        ("pruned", "KILLED"),
        ("stopped", "KILLED"),
        ("failed", "FAILED"),
    ],
)
def test_each_end_has_its_status_and_tag(state: str, status: str) -> None:
    story = Story()
    story.start("s-0")
    story.end("s-0", state)
    run = story.batch().children["s-0"]
    assert (run.status, run.tags["state"]) == (status, state)


def test_a_curve_has_at_most_200_points_and_keeps_the_rungs_metrics() -> None:
    story = Story(steps=1000)
    story.start("s-0")
    for last in range(100, 1001, 100):
        story.report("s-0", last, first=last - 99)
    points = story.batch().children["s-0"].points
    losses = [point.step for point in points if point.key == "train/loss"]
    assert len(losses) == 200
    assert [p.step for p in points if p.key == OBJECTIVE] == list(range(100, 1001, 100))


def test_steps_repeated_after_a_restart_are_told_once() -> None:
    story = Story()
    story.start("s-0")
    story.report("s-0", 60, first=1)
    story.start("s-0", attempt=2)
    story.report("s-0", 60, first=1)
    story.report("s-0", 180, first=61)
    run = story.batch().children["s-0"]
    keys = [(point.key, point.step) for point in run.points]
    assert len(keys) == len(set(keys))
    assert run.tags["attempt"] == "2"
    assert [p.step for p in run.points if p.key == OBJECTIVE] == [60, 180]


def test_params_come_with_the_first_start_alone() -> None:
    story, outbox = Story(), Outbox()
    story.start("s-0")
    outbox.add(story.events)
    first = outbox.take()
    story.start("s-0", attempt=2)
    outbox.add(story.events[2:])
    second = outbox.take()
    assert first is not None and second is not None
    assert first.children["s-0"].params == {"strategy": "start4", "optim.lr": "0.1"}
    assert second.children["s-0"].params == {}
    assert second.children["s-0"].status == "RUNNING"


def test_metrics_that_were_not_finite_are_left_out() -> None:
    story = Story()
    story.start("s-0")
    story.report("s-0", 60, first=60, score=None)
    story.end("s-0", "failed", step=60, score=None)
    assert {point.key for point in story.batch().children["s-0"].points} == {"train/loss"}


def test_the_best_so_far_counts_what_finished_and_takes_what_is_complete() -> None:
    story = Story()
    scores = [("complete", 0.3), ("pruned", 0.9), ("stopped", 0.9), ("failed", None)]
    for number, (state, score) in enumerate([*scores, ("complete", 0.2), ("complete", 0.4)]):
        story.start(f"s-{number}")
        story.end(f"s-{number}", state, score=score)
    best = [(p.step, p.value) for p in story.batch().parent.points]
    assert best == [(1, 0.3), (2, 0.3), (3, 0.3), (4, 0.3), (5, 0.4)]


def test_the_best_so_far_may_be_the_least() -> None:
    story = Story(objective="val_id/nll")
    for number, score in enumerate((0.5, 0.3, 0.9)):
        story.start(f"s-{number}")
        story.end(f"s-{number}", "complete", score=score)
    parent = story.batch().parent
    assert [(p.key, p.value) for p in parent.points] == [
        ("best/val_id/nll", 0.5),
        ("best/val_id/nll", 0.3),
        ("best/val_id/nll", 0.3),
    ]
    assert parent.tags["direction"] == "minimize"


def test_what_is_known_of_the_data_is_told_in_tags() -> None:
    data = {"rows": {"train": 9}, "overlap": {"val_id": {"prompts": 2, "rows": 1}}}
    tags = Story(data=data).batch().parent.tags
    assert tags["data.rows"] == '{"train": 9}'
    assert tags["data.overlap"] == '{"val_id": {"prompts": 2, "rows": 1}}'
    assert tags["direction"] == "maximize"


def test_the_searchs_end_leaves_nothing_running() -> None:
    story = Story()
    story.start("s-0")
    story.tell("search_ended", state="interrupted", trials={"running": 1}, result={})
    batch = story.batch()
    assert (batch.children["s-0"].status, batch.parent.status) == ("KILLED", "KILLED")
    assert batch.children["s-0"].tags["state"] == "interrupted"


def test_a_password_in_the_search_file_stays_at_home() -> None:
    story = Story()
    story.events[0].payload["config"]["tracking"] = {"uri": "https://me:secret@host/x"}
    document = story.batch().parent.documents["search.yaml"]
    assert document["tracking"] == {"uri": "https://host/x"}


def test_unknown_types_are_passed_over() -> None:
    story = Story()
    story.tell("trial_confirmed", "s-0")
    story.tell("weather")
    assert story.batch().children == {}


def test_batches_cut_anywhere_ask_for_the_same_points() -> None:
    story = Story()
    for uid in ("s-0", "s-1"):
        story.start(uid)
        story.report(uid, 60, first=1)
        story.report(uid, 180, first=61)
        story.start(uid, attempt=2)
        story.report(uid, 180, first=61)
        story.end(uid, "complete")
    whole = story.batch()
    dice = random.Random(0)  # noqa: S311 - a test's, not a secret's
    for _ in range(20):
        outbox, points = Outbox(), dict[str | None, list[Point]]()
        left = list(story.events)
        while left:
            size = dice.randint(1, 4)
            outbox.add(left[:size])
            left = left[size:]
            batch = outbox.take()
            assert batch is not None
            for run in (batch.parent, *batch.children.values()):
                points.setdefault(run.trial_uid, []).extend(run.points)
        assert points[None] == whole.parent.points
        assert points["s-0"] == whole.children["s-0"].points
        assert points["s-1"] == whole.children["s-1"].points


def test_a_report_is_the_note_and_the_files_of_the_search_s_run() -> None:
    story = Story()
    story.tell("report", note="**start4** is the best", files=["report/report.html"])
    parent = story.batch().parent
    assert parent.tags["mlflow.note.content"] == "**start4** is the best"
    assert parent.files == ["report/report.html"]


def test_finished_trials_alone_are_registered_unasked_and_say_what_they_scored() -> None:
    story = Story()
    for uid, state in (("s-0", "complete"), ("s-1", "pruned")):
        story.start(uid)
        told: dict[str, Any] = {"artifact": f"artifacts/{uid}", "manifest_sha256": "3f"}
        metrics = {OBJECTIVE: 0.51234, "cost/extra_tokens_pct": 26.0, "val_id/nll": 0.1}
        story.tell("trial_ended", uid, state=state, step=540, metrics=metrics, **told)
    children = story.batch().children
    (cut,) = children["s-1"].folders
    assert cut == ("artifacts/s-1", "3f", None)
    (finished,) = children["s-0"].folders
    assert finished.version_tags == {
        "trial_uid": "s-0",
        "strategy": "start4",
        OBJECTIVE: "0.5123",
        "cost/extra_tokens_pct": "26",
    }


def test_a_log_of_before_digests_were_told_registers_what_is_nominated_alone() -> None:
    story = Story()
    story.start("s-0")
    story.tell("trial_ended", "s-0", state="complete", step=540, metrics={}, artifact="artifacts/s")
    assert story.batch().children["s-0"].folders == [("artifacts/s", None, None)]


def test_the_best_so_far_has_at_most_200_points_however_many_trials() -> None:
    story = Story(trials=1000)
    for number in range(1000):
        story.start(f"s-{number}")
        story.end(f"s-{number}", "complete", score=number / 1000)
    points = [p for p in story.batch().parent.points if p.key == f"best/{OBJECTIVE}"]
    assert 50 <= len(points) <= 200
    assert points[-1] == (f"best/{OBJECTIVE}", 0.999, points[-1].time_ms, 1000)


def test_a_lost_attempt_is_the_same_run_and_its_late_report_is_no_point() -> None:
    story = Story()
    story.start("s-0")
    story.tell("trial_lost", "s-0", step=60)
    story.tell("trial_orphan", "s-0", step=180, metrics={OBJECTIVE: 0.9}, failed=None)
    story.tell("state_damaged", "s-0", step=180, problems=["the state at 60 is missing"])
    run = story.batch().children["s-0"]
    assert (run.tags["attempt"], run.points) == ("2", [])
    assert run.tags["state_damaged"] == "the state at 60 is missing"


def test_a_batch_says_whether_anything_still_runs() -> None:
    story = Story()
    assert not story.batch().ended
    for type, ended in (
        ("search_ended", True),
        ("search_started", False),
        ("search_ended", True),
        ("confirm_started", False),
        ("confirm_ended", True),
    ):
        story.tell(type, **(story.events[0].payload if type == "search_started" else {"state": ""}))
        assert story.batch().ended == ended, type


def test_the_end_of_a_killed_driver_leaves_the_result_that_was_told_before() -> None:
    story = Story()
    story.tell("search_ended", state="interrupted", trials={"running": 1})
    assert "result.json" not in story.batch().parent.documents


def test_a_champion_that_is_confirmed_no_more_is_revoked() -> None:
    story = Story()
    story.start("s-1")
    told: dict[str, Any] = {"artifact": "a", "metrics": {}, "name": "start4"}
    story.tell("champion", "s-1", manifest_sha256="old", **told)
    story.tell("confirm_ended", state="confirmed", verdict=[])
    assert not story.batch().revoked
    story.tell("confirm_ended", state="nothing confirmed", verdict=["no"])
    batch = story.batch()
    assert batch.revoked == {"old"}
    assert batch.parent.tags["champion"] == "none"
    assert [one.alias for one in batch.candidates] == []
    story.tell("champion", "s-1", manifest_sha256="new", **told)
    story.tell("confirm_ended", state="confirmed", verdict=[])
    batch = story.batch()
    assert batch.revoked == {"old"}
    assert batch.candidates[-1].manifest_sha256 == "new"


def test_a_member_s_scores_of_more_rows_are_points_again() -> None:
    story = Story()
    story.start("s-c")
    story.report("s-c", 540, first=1)
    for score in (0.4, 0.4, 0.6):
        metrics = {"test_ood/exact_match": score, OBJECTIVE: 0.5}
        story.tell(
            "trial_ended", "s-c", state="complete", step=540, metrics=metrics, stage="confirm"
        )
    points = story.batch().children["s-c"].points
    assert [p.value for p in points if p.key == "test_ood/exact_match"] == [0.4, 0.6]
    assert len([p for p in points if p.key == OBJECTIVE]) == 1
