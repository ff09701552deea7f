"""What ends a run, and that going on from there gives the same bits as not having stopped."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sequences import rain
from trials import COMBINATIONS, Each, StopAfter, log_of, same_bits, train, with_callback

import sa_nowcast.training.engine as engine
import sa_nowcast.training.watch as watch_module
from sa_nowcast.errors import Interrupted, RecipeError
from sa_nowcast.forecasts.nowcaster import Nowcaster
from sa_nowcast.models.rollout import Network
from sa_nowcast.recipe import TrainingRecipe
from sa_nowcast.training.checkpoint import AtomicCheckpointIO, load_checkpoint
from sa_nowcast.training.objective import learning_rate_factor
from sa_nowcast.training.validation import Validation


@pytest.fixture
def never_trains(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def refuse() -> None:
        def fail(*args: Any, **options: Any) -> None:
            raise AssertionError("training began")

        monkeypatch.setattr(engine.L, "Trainer", fail)

    return refuse


def _rates(seen: list[float]) -> Each:
    return Each(before=lambda trainer, *_: seen.append(trainer.optimizers[0].param_groups[0]["lr"]))


# --- schedules of the learning rate


@pytest.mark.parametrize(
    ("options", "factors"),
    [
        ({"schedule": "constant"}, [1.0] * 9),
        ({"schedule": "cosine"}, [1e-3 + 0.999 * 0.5 * (1 + np.cos(np.pi * s / 9)) for s in range(9)]),
        # One third of 9 updates: 1/4, 2/4, 3/4, and then the half cosine from 1 on.
        (
            {"schedule": "one-cycle", "warm_up": 1 / 3},
            [0.25, 0.5, 0.75, *(1e-3 + 0.999 * 0.5 * (1 + np.cos(np.pi * s / 6)) for s in range(6))],
        ),
        ({"schedule": "one-cycle", "warm_up": 0.0}, None),
    ],
)
def test_the_learning_rate_of_every_update_is_its_closed_form(
    options: dict[str, Any], factors: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if factors is None:  # at least one update of rise: half, and the half cosine over the other eight
        factors = [0.5, *(1e-3 + 0.999 * 0.5 * (1 + np.cos(np.pi * s / 8)) for s in range(8))]
    seen: list[float] = []
    with_callback(monkeypatch, _rates(seen))
    train(learning_rate=0.004, validation=0, **options)
    np.testing.assert_allclose(seen, 0.004 * np.array(factors), rtol=1e-12)


# --- limited by time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second an update: every look at the clock is one second after the one before."""
    ticks = iter(range(10_000))
    monkeypatch.setattr(watch_module, "time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))


@pytest.mark.usefixtures("clock")
def test_a_run_that_is_limited_by_time_stops_then_is_validated_and_saved(tmp_path: Path, never_trains: Any) -> None:
    options = {"folder": tmp_path, "max_time": "5 s", "validate_every": 100, "checkpoint_every": 100}
    nowcaster = train(**options)
    assert nowcaster.provenance["ended_by"] == "max_time"
    assert nowcaster.provenance["updates"] == 5
    assert nowcaster.provenance["best_step"] == 5
    assert nowcaster.provenance["validation_loss"] > 0
    assert load_checkpoint(tmp_path / "last.ckpt")["global_step"] == 5
    assert [int(row["step"]) for row in log_of(tmp_path)] == [5]
    never_trains()
    assert train(**options).digest == nowcaster.digest


@pytest.mark.usefixtures("clock")
def test_the_time_of_resumed_parts_adds_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unbroken = train(max_time="7 s")
    for step in (2, 4):
        with monkeypatch.context() as patch:
            with_callback(patch, StopAfter(step))
            with pytest.raises(Interrupted):
                train(folder=tmp_path, max_time="7 s")
    resumed = train(folder=tmp_path, max_time="7 s")
    assert resumed.provenance == unbroken.provenance
    assert resumed.provenance["updates"] == 7
    assert resumed.digest == unbroken.digest


@pytest.mark.usefixtures("clock")
def test_more_time_lets_a_run_go_on(tmp_path: Path) -> None:
    assert train(folder=tmp_path, max_time="3 s").provenance["updates"] == 3
    longer = train(folder=tmp_path, max_time="6 s")
    assert (longer.provenance["updates"], longer.provenance["ended_by"]) == (6, "max_time")
    rest = train(folder=tmp_path)
    assert (rest.provenance["updates"], rest.provenance["ended_by"]) == (9, "max_steps")


def test_a_run_that_has_ended_goes_on_when_more_updates_are_asked_for(tmp_path: Path) -> None:
    # At a constant learning rate, and with a validation at update 4 in both, nothing else depends on the length.
    unbroken = train(schedule="constant")
    short = train(folder=tmp_path, schedule="constant", max_steps=4)
    assert (short.provenance["updates"], short.provenance["ended_by"]) == (4, "max_steps")
    longer = train(folder=tmp_path, schedule="constant")
    assert (longer.provenance["updates"], longer.provenance["ended_by"]) == (9, "max_steps")
    assert longer.digest == unbroken.digest
    steps = [int(row.split(",")[0]) for row in (tmp_path / "training.csv").read_text().splitlines()[1:]]
    assert steps == sorted(set(steps))
    assert steps[-1] == 9


def test_a_run_that_lost_its_patience_goes_on_with_more_of_it(tmp_path: Path) -> None:
    options = {"folder": tmp_path, "max_steps": 24, "validate_every": 2, "learning_rate": 1e-12, "clip_norm": 1e-12}
    ended = train(**options, patience=1)
    assert ended.provenance["ended_by"] == "patience"
    longer = train(**options, patience=3)
    assert longer.provenance["ended_by"] == "patience"
    assert longer.provenance["updates"] > ended.provenance["updates"]
    assert train(**options, patience=None).provenance["ended_by"] == "max_steps"
    with pytest.raises(RecipeError, match=r"training\.patience was None and is 3"):
        train(**options, patience=3)


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("schedule", ["one-cycle", "cosine"])
@pytest.mark.parametrize("limit", [5, 100])
def test_the_learning_rate_falls_by_the_clock_where_that_is_ahead(
    schedule: Any, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []
    with_callback(monkeypatch, _rates(seen))
    train(max_time=f"{limit} s", schedule=schedule, learning_rate=1.0, clip_norm=1e-9, validation=0)
    assert len(seen) == min(limit, 9)
    for step, rate in enumerate(seen):
        # The rate of the next update is set before the clock is looked at for this one.
        reached = max(step, 9 * max(step - 1, 0) / limit)
        assert rate == pytest.approx(learning_rate_factor(reached, 9, schedule), rel=1e-12)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90 s", 90), ("30 min", 1800), ("1.5 h", 5400), ("2h", 7200), (" 1 s ", 1)]
)
def test_a_duration_is_read(text: str, seconds: float) -> None:
    assert TrainingRecipe(max_time=text).max_seconds == seconds


@pytest.mark.parametrize(
    "text", ["", "30", "0 s", "0.0 h", "-1 h", "1 d", "1e3 s", "½ h", "inf h", "nan s", "1 h 30 min", "1. h", 30, True]
)
def test_a_duration_that_is_none_is_refused_in_one_line(text: Any) -> None:
    with pytest.raises(RecipeError, match="max_time") as caught:
        train(max_time=text)
    assert "\n" not in str(caught.value)


# --- patience


def _worse_from(step: int) -> Each:
    """Spoils the weights a little more before every update from `step` on."""

    def before(trainer: Any, module: Any, batch: Any) -> None:
        if trainer.global_step >= step:
            with torch.no_grad():
                module.network.head.bias += 5

    return Each(before=before)


def test_patience_ends_a_run_after_so_many_validations_without_a_better_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, never_trains: Any
) -> None:
    losses: list[float] = []

    def after(trainer: Any, *_: Any) -> None:
        validation = next(c for c in trainer.callbacks if isinstance(c, Validation))
        if validation.validated == trainer.global_step:
            losses.append(validation.latest)

    with_callback(monkeypatch, _worse_from(4), Each(after=after))
    options = {"folder": tmp_path, "max_steps": 40, "patience": 3, "checkpoint_every": 100}
    nowcaster = train(**options)
    best = int(np.argmin(losses))
    assert len(losses) == best + 1 + 3
    assert nowcaster.provenance["ended_by"] == "patience"
    assert nowcaster.provenance["updates"] == 2 * len(losses) < 40
    assert nowcaster.provenance["best_step"] == 2 * (best + 1)
    never_trains()
    again = train(**options)
    assert again.digest == nowcaster.digest
    assert again.provenance == nowcaster.provenance


def test_a_better_validation_renews_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    # Training learns on this sequence; two validations in a row are never worse.
    nowcaster = train(rain(40), max_steps=24, validate_every=8, patience=2, learning_rate=5e-3)
    assert nowcaster.provenance["ended_by"] == "max_steps"


# --- a signal in the middle of a validation


class SignalInForecast:
    """Sends a signal from within the `number`-th forecast of a validation, counted from 0, and counts them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        self.count = 0
        forward = Network.forward

        def spy(network: Network, *args: Any, **options: Any) -> torch.Tensor:
            if not network.training:
                self.count += 1
                if self.count == number + 1:
                    os.kill(os.getpid(), signal.SIGTERM)
            return forward(network, *args, **options)

        monkeypatch.setattr(Network, "forward", spy)


# Validations after 2, 4, 6, 8 and 9 updates, of three batches each.
VALIDATED = {"validation_samples": 6, "average": 0.9, "log_every": 4}


@pytest.mark.parametrize(("number", "step"), [(0, 2), (4, 4), (7, 6), (13, 9)])
@pytest.mark.parametrize("second", [False, True])
def test_a_signal_within_a_validation_stops_in_that_batch_and_the_validation_is_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, step: int, second: bool
) -> None:
    unbroken = train(folder=tmp_path / "unbroken", **VALIDATED)
    with monkeypatch.context() as patch:
        forecasts = SignalInForecast(patch, number)
        with pytest.raises(Interrupted, match=f"SIGTERM at step {step} of 9"):
            train(folder=tmp_path / "run", **VALIDATED)
        assert forecasts.count == number + 1
    saved = load_checkpoint(tmp_path / "run" / "last.ckpt")
    assert saved["global_step"] == step
    assert saved["callbacks"]["Validation"]["validated"] < step
    if second and step < 9:  # again, in the validation that is made up for
        with monkeypatch.context() as patch:
            SignalInForecast(patch, 1)
            with pytest.raises(Interrupted, match=f"SIGTERM at step {step} of 9"):
                train(folder=tmp_path / "run", **VALIDATED)
    resumed = train(folder=tmp_path / "run", **VALIDATED)
    assert resumed.digest == unbroken.digest
    assert resumed.provenance == unbroken.provenance
    assert log_of(tmp_path / "run") == log_of(tmp_path / "unbroken")


def test_patience_that_runs_out_in_a_validation_that_is_made_up_for_ends_the_run_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"patience": 2, "validation_samples": 4, "max_steps": 30}
    with_callback(monkeypatch, _worse_from(4))
    unbroken = train(**options)
    validations = unbroken.provenance["updates"] // 2
    with monkeypatch.context() as patch:
        SignalInForecast(patch, 2 * (validations - 1))  # two batches a validation
        with pytest.raises(Interrupted, match=f"at step {2 * validations} of 30"):
            train(folder=tmp_path, **options)
    resumed = train(folder=tmp_path, **options)
    assert unbroken.provenance["ended_by"] == "patience"
    assert resumed.provenance == unbroken.provenance
    assert resumed.digest == unbroken.digest


# --- killed


class Killed:
    """Runs training in a child process that ends by SIGKILL, and says whether it came to its end before."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options

    def run(self) -> bool:
        child = os.fork()
        if not child:
            code = 1
            try:
                train(**self.options)
                code = 0
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
        return not os.WIFSIGNALED(status)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Nowcaster, Any]]:
    made: dict[str, tuple[Nowcaster, Any]] = {}

    def get(name: str) -> tuple[Nowcaster, Any]:
        if name not in made:
            folder = tmp_path_factory.mktemp("unbroken")
            made[name] = train(folder=folder, **COMBINATIONS[name]), log_of(folder)
        return made[name]

    return get


def _ends_as(unbroken: tuple[Nowcaster, Any], options: dict[str, Any]) -> None:
    resumed = train(**options)
    assert resumed.digest == unbroken[0].digest
    assert resumed.provenance == unbroken[0].provenance
    assert log_of(options["folder"]) == unbroken[1]  # the losses too


@pytest.mark.parametrize("name", COMBINATIONS)
def test_a_run_that_is_killed_between_updates_ends_with_the_same_bits(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unbroken: Any
) -> None:
    options = {**COMBINATIONS[name], "folder": tmp_path}
    for step in (3, 7):
        with monkeypatch.context() as patch:

            def kill(trainer: Any, *_: Any, step: int = step) -> None:
                if trainer.global_step == step:
                    os.kill(os.getpid(), signal.SIGKILL)

            with_callback(patch, Each(before=kill))
            assert not Killed(options).run()
    _ends_as(unbroken(name), options)


@pytest.mark.parametrize("name", COMBINATIONS)
def test_a_signal_after_an_odd_update_ends_with_the_same_bits(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unbroken: Any
) -> None:
    options = {**COMBINATIONS[name], "folder": tmp_path}
    for step in (2, 6):  # stopped after 3 and 7 updates
        with monkeypatch.context() as patch:
            with_callback(patch, StopAfter(step))
            with pytest.raises(Interrupted, match=f"at step {step + 1} of"):
                train(**options)
    _ends_as(unbroken(name), options)


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [(0, 2), (2, 0), (2, 2)])
def test_a_run_may_go_on_with_another_number_of_workers(
    first: int, then: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unbroken: Any
) -> None:
    for name in ("epochs", "everything"):
        options = {**COMBINATIONS[name], "folder": tmp_path / name}
        with monkeypatch.context() as patch:
            with_callback(patch, StopAfter(4))
            with pytest.raises(Interrupted):
                train(**options, workers=first)
        resumed = train(**options, workers=then)
        assert same_bits(resumed, unbroken(name)[0])
        assert log_of(tmp_path / name) == unbroken(name)[1]


# --- checkpoints


def test_what_a_killed_process_left_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / ".last.ckpt.partial").write_bytes(b"half")
    AtomicCheckpointIO().save_checkpoint({"state_dict": {}}, tmp_path / "last.ckpt")
    assert [f.name for f in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_checkpoint_with_the_sums_of_another_validation_is_refused_in_one_line(tmp_path: Path) -> None:
    train(max_steps=2, checkpoint_every=1, folder=tmp_path)
    path = next(tmp_path.rglob("last.ckpt"))
    content = load_checkpoint(path)
    del content["sa_nowcast_fingerprint"]["validation"]
    AtomicCheckpointIO().save_checkpoint(content, path)
    with pytest.raises(RecipeError, match=r"was another one: validation differs.*choose another output folder") as e:
        train(max_steps=4, checkpoint_every=1, folder=tmp_path)
    assert "\n" not in str(e.value)
    assert path.exists()
