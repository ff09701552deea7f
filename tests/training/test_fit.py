from __future__ import annotations

import csv
import io
import os
import re
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import xarray as xr
from sequences import NETWORK, OPTIONS, of_two_grids, rain, rounded, weather
from trials import Each, StopAfter, same_bits, with_callback

import sa_nowcast.training.engine as engine
from sa_nowcast.errors import DataError, Interrupted, ModelError, RecipeError, StorageError
from sa_nowcast.forecasts.nowcaster import Nowcaster
from sa_nowcast.models import NetworkConfig
from sa_nowcast.storage import whole
from sa_nowcast.training import data as training_data
from sa_nowcast.training.checkpoint import AtomicCheckpointIO, load_checkpoint, newest_valid, seal
from sa_nowcast.training.fit import fit
from sa_nowcast.training.validation import Validation

LONG = {**OPTIONS, "max_steps": 9, "validate_every": 2, "checkpoint_every": 2}
"""Nine updates, so that validation, checkpoints and the end fall on different steps as well as on the same."""


def train(data: Any = None, **options: Any) -> Nowcaster:
    given = {"history": 4, "steps": 3, "network": NETWORK, "progress": False} | LONG | options
    return fit(rain() if data is None else data, **given)


@pytest.fixture(scope="module")
def unbroken() -> Nowcaster:
    """What `train()` gives to which nothing happens."""
    return train()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that ended."""
    folder = tmp_path_factory.mktemp("run")
    train(folder=folder)
    return folder


class Crash(L.Callback):
    """Kills the run without warning in the batch after `step` updates."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            raise MemoryError("the machine went away")


# --- the result


def test_the_same_seed_gives_the_same_bits_and_another_seed_others() -> None:
    torch.manual_seed(5)
    one = train(seed=3)
    torch.manual_seed(6)
    np.random.seed(7)
    assert same_bits(one, train(seed=3))
    assert not same_bits(one, train(seed=4))


def test_weights_move_and_are_finite(unbroken: Nowcaster) -> None:
    assert not same_bits(train(max_steps=1, learning_rate=1e-12), unbroken)
    assert all(torch.isfinite(v).all() for v in unbroken.network.state_dict().values())


def test_training_learns_on_a_sequence_that_moves() -> None:
    nowcaster = train(
        rain(40), max_steps=60, learning_rate=5e-3, validate_every=30, network={**NETWORK, "output": "change"}
    )
    assert nowcaster.provenance["validation_loss"] < nowcaster.provenance["validation_persistence"]


def test_the_users_random_numbers_stay_where_they_were() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    before, legacy = torch.get_rng_state(), np.random.get_state()[1].copy()
    train()
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(np.random.get_state()[1], legacy)


def test_other_global_state_stays_as_it_was() -> None:
    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    environment = dict(os.environ)
    deterministic, grad = torch.are_deterministic_algorithms_enabled(), torch.is_grad_enabled()
    train()
    assert {n: signal.getsignal(n) for n in handlers} == handlers
    assert dict(os.environ) == environment
    assert (torch.are_deterministic_algorithms_enabled(), torch.is_grad_enabled()) == (deterministic, grad)


def test_without_a_folder_no_file_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    train()
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_printed_or_warned_when_progress_is_off(capfd: pytest.CaptureFixture[str]) -> None:
    import warnings

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train()
    assert [str(w.message) for w in caught if "lightning" in w.filename or "sa_nowcast" in w.filename] == []
    assert capfd.readouterr() == ("", "")


def test_progress_goes_to_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    train(progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    # Nothing of Lightning's own.
    first, last = err.splitlines()
    assert first == "training: update 0 of 9"
    assert last.startswith("training: update 9 of 9, loss ")
    assert last.endswith(" x persistence")


def test_a_log_gets_a_line_every_so_often_however_long_an_update_takes(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sa_nowcast.training.progress.LINE_EVERY", 0.05)
    with_callback(monkeypatch, Each(before=lambda *_: time.sleep(0.3)))
    train(progress=True, max_steps=2, validation=0)
    lines = capfd.readouterr().err.splitlines()
    # Some before the first update has ended, and from then on with the time that is left.
    assert len([line for line in lines if line == "training: update 0 of 2"]) >= 3
    assert any(line.startswith("training: update 1 of 2, loss ") and line.endswith(" s left") for line in lines)


@pytest.mark.parametrize("ended_by", ["max_steps", "patience", "signal"])
def test_the_bar_stands_on_a_terminal_before_the_first_update_and_ends_with_the_run(
    ended_by: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    seen = io.StringIO()
    seen.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", seen)
    before: list[str] = []
    with_callback(monkeypatch, Each(before=lambda *_: before.append(seen.getvalue())))
    options: dict[str, Any] = {"folder": tmp_path, "progress": True}
    if ended_by == "patience":
        train(**options, max_steps=40, validate_every=2, patience=1, learning_rate=1e-12, clip_norm=1e-12)
    elif ended_by == "signal":
        with_callback(monkeypatch, StopAfter(4))
        with pytest.raises(Interrupted):
            train(**options)
    else:
        train(**options)
    assert "training" in before[0]
    assert "0/" in before[0]
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.getvalue()).strip().splitlines()[-1]
    full = "━" * 40
    assert (full in last) == (ended_by != "signal"), last
    assert {"max_steps": "9/9", "patience": "4/40", "signal": "5/9"}[ended_by] in last


def test_terms_and_provenance_say_what_it_was_trained_on(unbroken: Nowcaster) -> None:
    nowcaster, terms = unbroken, unbroken.terms
    assert (terms.history, terms.steps, terms.step, terms.channels) == (
        4, 3, np.timedelta64(5, "m"), (("rain", "mm h-1"),),
    )  # fmt: skip
    assert (terms.dy, terms.dx, terms.grid_units) == (1000.0, 1000.0, "m")
    # 20 frames: the latest fifth (at least one window of 7) validates, 4 are left between.
    assert nowcaster.provenance["training_period"] == "2020-06-01T00:00/2020-06-01T00:40"
    assert nowcaster.provenance["validation_period"] == "2020-06-01T01:05/2020-06-01T01:35"
    assert nowcaster.provenance["best_step"] in (2, 4, 6, 8, 9)


def test_scaling_and_weights_see_training_times_only() -> None:
    data = rain()
    altered = data.copy()
    altered[9:13] = 1e5  # the guard between training and validation
    assert same_bits(train(data), train(altered))
    changed = data.copy()
    changed[13:] *= 3  # validation may choose other weights, but the scaling must not know it
    assert train(changed).scaling == train(data).scaling


def test_a_network_may_be_given_as_a_record() -> None:
    config = NetworkConfig(hidden=(4,), kernel=3, patch=4, channels=1)
    assert train(network=config).network.config == config
    with pytest.raises(RecipeError, match="network\\.channels: 1, expected 2, the channels of the data"):
        train(weather(), network=config)


@pytest.mark.parametrize(
    "options",
    [
        {"validation": 0},
        {"loss": "l1+l2"},
        {"truth_start": 0.5},
        {"crop": None},
        {"clip_norm": 1e-3},
        {"schedule": "constant"},
        {"schedule": "cosine"},
        {"warm_up": 0.5},
        {"optimizer": "adamw", "weight_decay": 0.5},
        {"average": 0.5},
        {"augment": ("flips", "turns")},
        {"augment": ("flips",), "crop": None},
        {"reversed_input": True},
        {"context_truth_start": 0.5},
        {"context_truth_start": 0.2, "truth_start": 0.5},
        {"loss": "rain-weighted"},
        {"loss": "rain-weighted", "rain_weights": ((1.0, 3.0),)},
        {"precision": "bf16"},
        {"scaling": "db"},
    ],
)
def test_every_option_trains(options: dict[str, Any], unbroken: Nowcaster) -> None:
    nowcaster = train(**options)
    assert not same_bits(nowcaster, unbroken)
    assert np.isfinite(nowcaster.forecast(rain())).all()


def test_without_a_limit_gradients_are_as_with_one_that_is_not_reached() -> None:
    unlimited = train(clip_norm=None)
    assert same_bits(unlimited, train(clip_norm=1e6))
    assert not same_bits(unlimited, train(clip_norm=1e-3))


# --- validation and the best weights


def test_the_best_weights_are_kept_not_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, float, dict[str, torch.Tensor]]] = []

    class Watched(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, module: Any, *args: Any) -> None:
            if trainer.global_step == 7:  # what an update too large would do
                with torch.no_grad():
                    module.network.head.bias += 5

        def on_train_batch_end(self, trainer: L.Trainer, module: Any, *args: Any) -> None:
            validation = next(c for c in trainer.callbacks if isinstance(c, Validation))  # type: ignore[attr-defined]
            assert validation.validated == trainer.global_step
            weights = {k: v.clone() for k, v in module.network.state_dict().items()}
            seen.append((trainer.global_step, validation.latest, weights))

    with_callback(monkeypatch, Watched())
    nowcaster = train(validate_every=1)
    assert [step for step, _, _ in seen] == list(range(1, 10))
    step, loss, weights = min(seen, key=lambda s: s[1])
    assert step == 7
    assert nowcaster.provenance["best_step"] == step
    assert nowcaster.provenance["validation_loss"] == loss
    assert all(torch.equal(v, weights[k]) for k, v in nowcaster.network.state_dict().items())


def test_the_validation_loss_is_the_mean_over_its_windows_times_and_pixels() -> None:
    data = rain()
    nowcaster = train(data, validate_every=9, validation_samples=1, crop=None)
    z = nowcaster.scaling.to_network(data.values[13:, None])
    with torch.inference_mode():
        forecast = nowcaster.network(torch.from_numpy(z[None, :4]), steps=3)[0].numpy()
    # Means of 1440 float32 numbers.
    assert nowcaster.provenance["validation_loss"] == pytest.approx(np.mean((forecast - z[4:]) ** 2), rel=1e-5)
    assert nowcaster.provenance["validation_persistence"] == pytest.approx(np.mean((z[3] - z[4:]) ** 2), rel=1e-5)


def test_without_validation_the_last_weights_are_kept() -> None:
    nowcaster = train(validation=0)
    assert nowcaster.provenance["best_step"] == 9
    assert nowcaster.provenance["validation_loss"] is None
    assert nowcaster.provenance["validation_period"] is None


# --- interrupted and resumed


def test_a_resumed_run_of_moved_windows_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"augment": ("flips", "turns"), "seed": 2}
    with monkeypatch.context() as patch:
        with_callback(patch, StopAfter(5, signal.SIGTERM))
        with pytest.raises(Interrupted):
            train(folder=tmp_path, **options)
    resumed = train(folder=tmp_path, **options)
    assert same_bits(resumed, train(**options))


@pytest.mark.parametrize("step", [1, 2, 5, 8])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1], ids=lambda n: n.name)
def test_a_signal_saves_and_stops_and_the_resumed_run_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, number: signal.Signals, unbroken: Nowcaster
) -> None:
    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    with_callback(monkeypatch, StopAfter(step, number))
    with pytest.raises(
        Interrupted, match=rf"{number.name} at step {step + 1} of 9; saved in .*run the same again"
    ) as caught:
        train(folder=tmp_path)
    assert caught.value.exit_code == 75
    assert {n: signal.getsignal(n) for n in handlers} == handlers
    assert load_checkpoint(tmp_path / "last.ckpt")["global_step"] == step + 1
    monkeypatch.undo()
    resumed = train(folder=tmp_path)
    assert same_bits(resumed, unbroken)
    assert resumed.provenance == unbroken.provenance
    assert resumed.digest == unbroken.digest


@pytest.fixture(scope="module", params=[0.2, 0.0])
def killed(request: pytest.FixtureRequest) -> tuple[dict[str, Any], Nowcaster]:
    """Options, and what training with them gives to which nothing happens."""
    options: dict[str, Any] = {"validation": request.param, "truth_start": 0.5, "batch_size": 3}
    return options, train(**options)


@pytest.mark.parametrize("step", [2, 3, 4, 8])
def test_a_killed_run_goes_on_from_its_last_checkpoint_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, killed: tuple[dict[str, Any], Nowcaster]
) -> None:
    options, unbroken = killed
    with_callback(monkeypatch, Crash(step))
    with pytest.raises(MemoryError):
        train(folder=tmp_path, **options)
    monkeypatch.undo()
    resumed = train(folder=tmp_path, **options)
    assert resumed.provenance == unbroken.provenance
    assert resumed.digest == unbroken.digest


def test_a_run_may_be_interrupted_at_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unbroken: Nowcaster
) -> None:
    for step in range(8):
        with_callback(monkeypatch, StopAfter(step))
        with pytest.raises(Interrupted):
            train(folder=tmp_path)
        monkeypatch.undo()
    assert train(folder=tmp_path).digest == unbroken.digest
    with (tmp_path / "training.csv").open() as file:
        steps = [int(r["step"]) for r in csv.DictReader(file)]
    assert steps == sorted(set(steps))


@pytest.mark.parametrize("validation", [0.2, 0.0])
def test_a_finished_run_is_not_trained_again(tmp_path: Path, validation: float) -> None:
    first = train(folder=tmp_path, validation=validation)
    log = (tmp_path / "training.csv").read_text()
    again = train(folder=tmp_path, validation=validation)
    assert again.digest == first.digest
    assert again.provenance == first.provenance
    assert (tmp_path / "training.csv").read_text() == log


def test_a_run_without_a_folder_says_how_to_be_resumable(monkeypatch: pytest.MonkeyPatch) -> None:
    with_callback(monkeypatch, StopAfter(3))
    with pytest.raises(Interrupted, match=r"SIGTERM at step 4 of 9.*pass folder="):
        train()


def test_signal_handlers_are_restored_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    with_callback(monkeypatch, Crash(3))
    with pytest.raises(MemoryError):
        train()
    assert {n: signal.getsignal(n) for n in handlers} == handlers


def test_training_works_in_another_thread(unbroken: Nowcaster) -> None:
    result: list[Nowcaster] = []
    thread = threading.Thread(target=lambda: result.append(train()))
    thread.start()
    thread.join()
    assert same_bits(result[0], unbroken)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"seed": 1}, r"training\.seed was 0 and is 1"),
        ({"max_steps": 8}, r"training\.max_steps was 9 and is 8"),
        ({"learning_rate": 0.1}, r"training\.learning_rate"),
        ({"network": {**NETWORK, "hidden": (8,)}}, "network differs"),
        ({"scaling": "db"}, "scaling differs"),
        ({"history": 3}, "data differs"),
        ({"data": rain(seed=9)}, "data differs"),
        ({"data": rain(19)}, "data differs"),
    ],
)
def test_other_options_in_the_same_folder_are_refused_by_name(
    tmp_path: Path, options: dict[str, Any], key: str, unbroken: Nowcaster, finished: Path
) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    with pytest.raises(RecipeError, match=f"the run in this folder was another one: {key}"):
        train(folder=tmp_path, **options)
    assert same_bits(train(folder=tmp_path, checkpoint_every=7, workers=0), unbroken)


def test_a_truncated_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, unbroken: Nowcaster, finished: Path
) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    last, previous = tmp_path / "last.ckpt", tmp_path / "previous.ckpt"
    assert load_checkpoint(previous)["global_step"] == 8
    last.write_bytes(last.read_bytes()[:1000])
    assert newest_valid(tmp_path)[0] == previous
    with pytest.warns(UserWarning, match=r"last\.ckpt: the checkpoint is damaged.*from the one before, step 8"):
        assert train(folder=tmp_path).digest == unbroken.digest
    assert load_checkpoint(last)["global_step"] == 9
    # What was damaged must not have taken the place of what was whole.
    assert load_checkpoint(previous)["global_step"] == 8
    last.write_bytes(b"")
    previous.write_bytes(b"PK\x03\x04")
    assert newest_valid(tmp_path)[0] is None
    said: list[str] = []
    assert train(folder=tmp_path, report=said.append).digest == unbroken.digest
    assert any("last.ckpt: the checkpoint is damaged" in line and "starting anew" in line for line in said)


def test_a_checkpoint_with_code_in_it_is_refused_and_not_run(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "owned",)

    torch.save({"state_dict": {}, "x": Hostile()}, tmp_path / "last.ckpt")
    seal(tmp_path / "last.ckpt")
    with pytest.raises(ModelError, match="the checkpoint is damaged"):
        load_checkpoint(tmp_path / "last.ckpt")
    torch.save([1, 2], tmp_path / "last.ckpt")
    seal(tmp_path / "last.ckpt")
    with pytest.raises(ModelError, match="no checkpoint of a training run"):
        load_checkpoint(tmp_path / "last.ckpt")
    assert not (tmp_path / "owned").exists()


def test_a_checkpoint_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = AtomicCheckpointIO()
    writer.save_checkpoint({"state_dict": {}, "n": 1}, tmp_path / "last.ckpt")
    for name in ("fsync", "replace"):

        def full(*args: Any) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            with pytest.raises(StorageError, match="No space left on device"):
                writer.save_checkpoint({"state_dict": {}, "n": 2}, tmp_path / "last.ckpt")
        assert load_checkpoint(tmp_path / "last.ckpt")["n"] == 1
        assert [f.name for f in tmp_path.iterdir()] == ["last.ckpt"]


def test_the_log_has_one_row_for_each_checkpoint(finished: Path) -> None:
    with (finished / "training.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(r["step"]) for r in rows] == [2, 4, 6, 8, 9]
    assert all(float(r["loss"]) > 0 for r in rows)
    # The validation that belongs to a step stands in its row.
    assert all(float(r["validation_loss"]) > 0 for r in rows)


# --- what is wrong is said before training


@pytest.fixture
def never_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise AssertionError("training began")

    monkeypatch.setattr(engine.L, "Trainer", fail)


@pytest.mark.usefixtures("never_trains")
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_step": 5}, RecipeError, r"max_step: unknown key.*Fix: write 'max_steps'"),
        ({"learning_rat": 5}, RecipeError, r"Fix: write 'learning_rate'"),
        ({"batch_size": 0}, RecipeError, r"fit, batch_size: 0, expected input should be greater"),
        ({"max_steps": True}, RecipeError, r"fit, max_steps: True"),
        ({"learning_rate": float("nan")}, RecipeError, r"fit, learning_rate: nan"),
        ({"schedule": "cosin"}, RecipeError, r"fit, schedule: 'cosin', expected"),
        ({"device": "tpu"}, RecipeError, r"device: 'tpu'"),
        ({"history": 0}, RecipeError, r"history: 0, expected a whole number of at least 1"),
        ({"steps": 1.5}, RecipeError, r"steps: 1\.5, expected a whole number"),
        ({"augment": ("rotate",)}, RecipeError, r"fit, augment\.0: 'rotate', expected input should be 'flips'"),
        ({"augment": ("turns",), "crop": None}, RecipeError, r"turns: samples of 24 x 20, expected squares"),
        ({"scaling": "cube"}, RecipeError, r"scaling: 'cube', expected one of auto"),
        ({"network": {"preset": "tiny"}}, RecipeError, r"there is no 'tiny'.*expected one of"),
        ({"network": {"hiden": (4,)}}, (RecipeError, ModelError), r"write 'hidden'"),
        ({"network": {"hidden": 4.5}}, RecipeError, r"network\.hidden"),
        ({"network": {"preset": ["small"]}}, RecipeError, r"network"),
        ({"network": 3}, RecipeError, r"network: 3"),
        ({"validation": 1.5}, RecipeError, r"split\.validation: 1\.5"),
        ({"guard": -1}, RecipeError, r"split\.guard: -1"),
        ({"data": rain(9)}, DataError, r"time: 9 frames, of which 0 would be left to train on, expected at least 18"),
        ({"data": rain() * 0}, DataError, r"rain: one value only"),
        ({"data": rain().isel(time=[0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19])}, DataError,
         r"00:20: step is 10 min \(1 missing"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_are_refused_before_training(options: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        train(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("never_trains")
def test_a_frame_without_a_valid_value_is_refused_by_time() -> None:
    data = rain()
    data[5] = np.nan
    data[15] = np.nan
    with pytest.raises(DataError, match=r"rain, 2020-06-01T00:25: every value is missing, expected"):
        train(data)


@pytest.mark.usefixtures("never_trains")
def test_a_folder_that_cannot_be_written_is_found_out_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(StorageError, match="the output folder cannot be written"):
            train(folder=folder)

    def read_only(*args: Any, **options: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(whole.tempfile, "NamedTemporaryFile", read_only)
    with pytest.raises(StorageError, match=r"cannot be written \(Permission denied\)\. Fix: choose another folder"):
        train(folder=tmp_path / "new")


def test_gaps_and_empty_frames_that_are_skipped_enter_no_window(monkeypatch: pytest.MonkeyPatch) -> None:
    data = rain(40).isel(time=[*range(12), *range(14, 40)])
    data[20] = np.nan
    seen: list[int] = []
    dataset = training_data.SequenceDataset

    def watched(frames: Any, history: int, steps: int, *, starts: Any, **options: Any) -> Any:
        seen.extend(int(i) for s in starts for i in range(s, s + history + steps))
        assert not any(s < 12 < s + history + steps for s in starts)
        return dataset(frames, history, steps, starts=starts, **options)

    monkeypatch.setattr(training_data, "SequenceDataset", watched)
    train(data, gaps="skip")
    assert seen
    assert 20 not in seen
    with pytest.raises(DataError, match="no window of 7 successive frames in the training period"):
        train(rain(40).isel(time=[i for i in range(40) if i % 6]), gaps="skip")


def test_a_loss_that_is_not_finite_stops_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Poison(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, *args: Any) -> None:
            if trainer.global_step == 3:
                with torch.no_grad():
                    next(iter(module.parameters())).fill_(torch.nan)

    with_callback(monkeypatch, Poison())
    with pytest.raises(
        ModelError, match=r"training, step 3: the loss is nan; windows: 2020-06-01T00:05 to .*\. Fix: lower training"
    ):
        train(folder=tmp_path)
    # The checkpoints from before are sound.
    assert load_checkpoint(tmp_path / "last.ckpt")["global_step"] == 2


def test_masked_pixels_of_the_target_do_not_change_training() -> None:
    """Two sequences that differ only under the mask: NaN there, whatever stood there before."""
    data = rain()
    hidden = np.zeros(data.shape, dtype=bool)
    hidden[:, 3:7, 2:9] = True
    one = data.where(~hidden)
    other = (data * 2).where(xr.DataArray(hidden, dims=data.dims), data).where(~hidden)
    assert same_bits(train(one), train(other))
    # Missing everywhere and always: as though those pixels did not count. Dry pixels there do count.
    assert not same_bits(train(one), train(one.fillna(0)))


@pytest.mark.slow
def test_workers_do_not_change_the_weights(unbroken: Nowcaster) -> None:
    assert same_bits(train(workers=2), unbroken)


def test_a_run_that_memory_cannot_hold_is_refused_before_it_starts() -> None:
    with pytest.raises(ModelError, match=r"needs about .* GiB to train"):
        fit(
            rain(24),
            history=4,
            steps=4,
            max_steps=2,
            crop=None,
            batch_size=1_000_000,
            network={"hidden": (64,) * 4, "patch": 1},
            progress=False,
        )


def test_rounded_times_and_other_grids_beside_the_variable_train_the_same_network(unbroken: Nowcaster) -> None:
    for data, options in ((rounded(rain()), {}), (of_two_grids(rain()), {"variables": ["rain"]})):
        ours = train(data, **options)
        assert same_bits(unbroken, ours)
        assert ours.terms == unbroken.terms
