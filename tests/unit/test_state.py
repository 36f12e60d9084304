"""A trial's state: through bytes and back, and damaged on the way."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save

from trainable.errors import ArtifactError, StateError
from trainable.state import TrialState


def some_state(rows: int = 3) -> TrialState:
    rng = np.random.default_rng(0)
    latents, first, second = (rng.normal(size=(rows, 4)).astype(np.float32) for _ in range(3))
    return TrialState(17, latents, first, second)


@pytest.mark.parametrize("rows", [0, 3])
def test_bytes_and_back(rows: int) -> None:
    state = some_state(rows)
    again = TrialState.from_bytes(state.to_bytes())
    assert again.step == 17
    for name in ("latents", "exp_avg", "exp_avg_sq"):
        values = getattr(again, name)
        assert values.dtype == np.float32
        assert np.array_equal(values, getattr(state, name))


def test_arrays_that_are_views_are_written_whole() -> None:
    state = some_state()
    view = TrialState(1, state.latents.T, state.exp_avg.T, state.exp_avg_sq.T)
    assert np.array_equal(TrialState.from_bytes(view.to_bytes()).latents, state.latents.T)


def test_bytes_are_the_same_each_time() -> None:
    assert some_state().to_bytes() == some_state().to_bytes()


@pytest.mark.parametrize("cut", [0, 4, 30, -1])
def test_cut_bytes_are_refused(cut: int) -> None:
    with pytest.raises(ArtifactError, match="damaged"):
        TrialState.from_bytes(some_state().to_bytes()[:cut])


def test_bytes_of_something_else_are_refused() -> None:
    with pytest.raises(ArtifactError, match="damaged"):
        TrialState.from_bytes(b"not safetensors at all")
    with pytest.raises(ArtifactError, match="damaged"):
        TrialState.from_bytes(save({"latents": np.zeros((1, 2), np.float32)}))
    with pytest.raises(ArtifactError, match="damaged"):
        names = ("latents", "exp_avg", "exp_avg_sq")
        tensors = {name: np.zeros((1, 2), np.float32) for name in names}
        TrialState.from_bytes(save(tensors | {"step": np.zeros(0, np.int64)}))


def test_arrays_of_another_kind_or_shape_are_refused() -> None:
    state = some_state()
    with pytest.raises(StateError, match="exp_avg of float64"):
        TrialState(1, state.latents, state.exp_avg.astype(np.float64), state.exp_avg_sq)
    with pytest.raises(StateError, match=r"one shape \[L, D\]"):
        TrialState(1, state.latents, state.exp_avg[:2], state.exp_avg_sq)
    with pytest.raises(StateError, match=r"one shape \[L, D\]"):
        TrialState(1, *(array.reshape(-1) for array in (state.latents,) * 3))
    with pytest.raises(StateError, match="step -1"):
        TrialState(-1, state.latents, state.exp_avg, state.exp_avg_sq)
    names = ("latents", "exp_avg", "exp_avg_sq")
    halves = {name: np.zeros((1, 2), np.float16) for name in names}
    with pytest.raises(StateError, match="latents of float16"):
        TrialState.from_bytes(save(halves | {"step": np.zeros(1, np.int64)}))
