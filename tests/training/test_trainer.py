"""What training computes, against sums written out here."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import numpy.typing as npt
import pytest
import torch
import xarray as xr
from sequences import NETWORK, rain, weather
from trials import LOG, LONG, Each, log_of, masked_loss, spied, train, weights, with_callback

from sa_nowcast.errors import ModelError, RecipeError
from sa_nowcast.models import build
from sa_nowcast.models.rollout import Network
from sa_nowcast.recipe import TRAINING_PRESETS, TrainingRecipe, checked
from sa_nowcast.training.checkpoint import load_checkpoint
from sa_nowcast.training.objective import rain_weight

Arrays = dict[str, npt.NDArray[np.float64]]


def _copied(module: Any) -> Arrays:
    return {k: v.detach().double().numpy() for k, v in module.network.state_dict().items()}


# --- the average of the weights


class Recorder(L.Callback):
    """Keeps the weights before the first update and after every one, and those that were validated."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.plain: list[Arrays] = []
        self.validated: list[Arrays] = []
        forward = Network.forward

        def spy(network: Network, *args: Any, **options: Any) -> torch.Tensor:
            if not network.training:
                self.validated.append({k: v.double().numpy() for k, v in network.state_dict().items()})
            return forward(network, *args, **options)

        monkeypatch.setattr(Network, "forward", spy)

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        self.plain.append(_copied(module))

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, *args: Any) -> None:
        self.plain.append(_copied(module))

    def averages(self, decay: float) -> list[Arrays]:
        """The exponential moving average after every update, in float64, from the definition."""
        result = [self.plain[0]]
        for n, now in enumerate(self.plain[1:], start=1):
            d = min(decay, (1 + n) / (10 + n))
            result.append({k: d * result[-1][k] + (1 - d) * now[k] for k in now})
        return result


def _close(one: Any, other: Arrays) -> None:
    for name, value in one.items():
        # Nine float32 steps of an average of numbers around 0.1.
        np.testing.assert_allclose(np.asarray(value, np.float64), other[name], rtol=1e-5, atol=1e-7)


def test_the_kept_weights_are_the_average_and_the_optimiser_and_checkpoints_have_the_plain_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(monkeypatch)
    with_callback(monkeypatch, recorder)
    # From the ninth update on it is the decay that counts, and before the warm-up: (1 + n) / (10 + n).
    nowcaster = train(average=0.5, folder=tmp_path, learning_rate=0.02)
    averages = recorder.averages(0.5)
    _close(weights(nowcaster), averages[nowcaster.provenance["best_step"]])
    assert len(recorder.validated) == 5
    for step, seen in zip((2, 4, 6, 8, 9), recorder.validated, strict=True):
        _close(seen, averages[step])
    saved = load_checkpoint(tmp_path / "last.ckpt")
    for name, value in recorder.plain[-1].items():
        assert np.array_equal(saved["state_dict"][f"network.{name}"].double().numpy(), value)
        assert not np.allclose(averages[-1][name], value, rtol=1e-3, atol=1e-6)
    _close(saved["callbacks"]["Average"]["weights"], averages[-1])


def test_the_average_does_not_change_the_path_of_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = []
    for decay in (0.0, 0.9):
        with monkeypatch.context() as patch:
            recorder = Recorder(patch)
            with_callback(patch, recorder)
            train(average=decay)
            paths.append(recorder.plain)
    for one, other in zip(*paths, strict=True):
        assert all(np.array_equal(one[k], other[k]) for k in one)


# --- the sequence backwards in time


def test_every_batch_makes_a_second_update_with_its_frames_in_reverse_order(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        plain = spied(patch)
        train(validation=0, max_steps=3)
    calls = spied(monkeypatch)
    nowcaster = train(validation=0, max_steps=5, reversed_input=True, truth_start=0.9, truth_decay=0.25)
    assert nowcaster.provenance["updates"] == 5
    assert len(calls) == 5
    for update, call in enumerate(calls):
        frames = plain[update // 2].x
        assert torch.equal(call.x, frames.flip(1) if update % 2 else frames)
        # Seed, kind of mask and batch; eta falls with the batches.
        drawn = np.random.default_rng((0, 3, update // 2)).random((2, 2)) < 0.9 - 0.25 * (update // 2)
        assert call.mask is not None
        np.testing.assert_array_equal(call.mask.numpy(), drawn)


# --- what the network reads


def test_training_windows_are_moved_missing_pixels_and_all_and_those_of_validation_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = rain()
    data[:, :6, :9] = np.nan  # another shape under each of the eight moves

    def batches_and_loss(**options: Any) -> tuple[list[npt.NDArray[np.float32]], Any]:
        seen: list[npt.NDArray[np.float32]] = []
        with monkeypatch.context() as patch:
            with_callback(patch, Each(before=lambda trainer, module, batch: seen.append(batch.cpu().numpy().copy())))
            nowcaster = train(data, batch_size=4, max_steps=8, learning_rate=1e-12, **options)
        return seen, nowcaster.provenance["validation_persistence"]

    plain, reference = batches_and_loss()
    moved, same_reference = batches_and_loss(augment=("flips", "turns"))
    assert same_reference == reference
    found = set()
    for one, other in zip(plain, moved, strict=True):
        for x, y in zip(one, other, strict=True):
            versions = [np.rot90(f, q, (-2, -1)) for f in (x, x[..., ::-1]) for q in range(4)]
            found.add([np.array_equal(v, y, equal_nan=True) for v in versions].index(True))
    assert len(found) > 4
    assert any(np.isnan(b).any() for b in moved)


def test_scheduled_sampling_reads_true_frames_as_seed_and_step_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = spied(monkeypatch)
    train(validation=0, batch_size=4, max_steps=7, truth_start=1.0, truth_decay=0.2, seed=11)
    assert [c.history for c in calls] == [4] * 7
    for step, call in enumerate(calls):
        eta = max(1 - 0.2 * step, 0)
        if step > 5:
            assert eta == 0
            assert call.mask is None
        elif call.mask is not None:  # 1 - 5 x 0.2 is 0 or the rounding error of it
            np.testing.assert_array_equal(call.mask.numpy(), np.random.default_rng((11, 3, step)).random((4, 2)) < eta)
    assert calls[0].mask is not None
    assert calls[0].mask.all()
    assert len({c.mask.numpy().tobytes() for c in calls[1:5] if c.mask is not None}) > 1


def test_reverse_scheduled_sampling_reads_true_frames_of_the_history_with_rising_probability(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = spied(monkeypatch)
    options = {"truth_start": 0.5, "truth_decay": 0.0, "context_truth_start": 0.25, "context_truth_rise": 0.25}
    train(validation=0, batch_size=4, max_steps=6, seed=3, **options)
    for step, call in enumerate(calls):
        assert call.mask is not None
        later = np.random.default_rng((3, 3, step)).random((4, 2)) < 0.5
        probability = 0.25 + 0.25 * step
        if probability < 1:
            within = np.random.default_rng((3, 4, step)).random((4, 3)) < probability
            assert call.history == 1
            np.testing.assert_array_equal(call.mask.numpy(), np.concatenate([within, later], axis=1))
        else:
            assert call.history == 4
            np.testing.assert_array_equal(call.mask.numpy(), later)


def test_without_scheduled_sampling_no_mask_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = spied(monkeypatch)
    train(validation=0, max_steps=2)
    assert [(c.history, c.mask) for c in calls] == [(4, None)] * 2


@pytest.mark.parametrize("output", ["frame", "change"])
def test_a_history_of_true_frames_by_mask_is_the_plain_history(output: str) -> None:
    torch.manual_seed(0)
    network = build("sa-convlstm", **{**NETWORK, "output": output}, channels=1)
    x = torch.rand(3, 7, 1, 12, 8)
    later = torch.rand(3, 2) < 0.5
    masked = network.predict_all(x, 1, torch.cat([torch.ones(3, 3, dtype=torch.bool), later], dim=1))
    # The same products, for all known frames at once or one after the other: sums of float32 in another order.
    torch.testing.assert_close(masked, network.predict_all(x, 4, later), rtol=1e-5, atol=1e-6)


# --- losses


def _weighted(error: Any, rain: Any, pairs: Any) -> float:
    factor = np.ones(rain.shape)
    for index, value in np.ndenumerate(rain):
        for threshold, weight in pairs:
            if value >= threshold:
                factor[index] = weight
    seen = np.isfinite(rain)
    return float(((error**2 + np.abs(error)) * factor)[seen].sum() / seen.sum())


def test_the_rain_weighted_loss_is_the_balanced_error_written_out() -> None:
    rng = np.random.default_rng(0)
    rain_rate = rng.gamma(0.5, 12, (2, 3, 1, 4, 5)).astype(np.float32)
    rain_rate[0, 0, 0, 0, :4] = 2, 5, 10, 30
    rain_rate[rng.random(rain_rate.shape) < 0.2] = np.nan
    target, prediction = (rng.standard_normal(rain_rate.shape).astype(np.float32) for _ in range(2))
    pairs = ((2.0, 2.0), (5.0, 5.0), (10.0, 10.0), (30.0, 30.0))
    assert TrainingRecipe().rain_weights == pairs
    raw = torch.from_numpy(rain_rate)
    found = masked_loss(
        torch.from_numpy(prediction),
        torch.from_numpy(target),
        torch.isfinite(raw),
        "rain-weighted",
        rain_weight(raw, pairs),
    )
    expected = _weighted(prediction.astype(np.float64) - target, rain_rate, pairs)
    assert float(found) == pytest.approx(expected, rel=1e-6)  # a float32 sum of some hundred terms


@pytest.mark.parametrize("loss", ["l2", "l1+l2", "rain-weighted"])
def test_the_logged_loss_is_that_of_all_predictions_of_observed_pixels(
    loss: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = rain(30)
    data = data.where(np.random.default_rng(1).random(data.shape) > 0.2)
    raws: list[npt.NDArray[np.float64]] = []
    calls = spied(monkeypatch)
    with_callback(monkeypatch, Each(before=lambda trainer, module, batch: raws.append(batch.double().numpy())))
    pairs = ((1.005, 3.0), (4.005, 7.0))
    train(data, validation=0, max_steps=2, log_every=1, folder=tmp_path, loss=loss, rain_weights=pairs)
    for call, raw, row in zip(calls, raws, log_of(tmp_path), strict=True):
        error = (call.prediction - call.x[:, 1:]).double().numpy()
        seen = np.isfinite(raw[:, 1:])
        assert 0 < seen.mean() < 1
        if loss == "rain-weighted":
            expected = _weighted(error, raw[:, 1:], pairs)
        else:
            expected = np.mean(error[seen] ** 2) + (np.mean(np.abs(error[seen])) if loss == "l1+l2" else 0)
        assert float(row["loss"]) == pytest.approx(expected, rel=1e-5)  # six digits are written


def test_a_rain_weighted_loss_of_anything_but_rain_rates_is_refused() -> None:
    for units in ("K", None):
        data = rain()
        data.attrs = {} if units is None else {"units": units}
        with pytest.raises(
            RecipeError, match=r"training\.loss: rain-weighted, and rain has .*expected rain rates"
        ) as e:
            train(data, loss="rain-weighted", scaling="standard")
        assert "\n" not in str(e.value)
    with pytest.raises(RecipeError, match=r"temperature has units 'K'"):
        train(weather(), loss="rain-weighted")


def test_the_sum_of_logarithms_is_no_accumulation() -> None:
    expected = r"training\.loss: accumulation, of rain with scaling log1p, .*pass scaling='standard'"
    with pytest.raises(RecipeError, match=expected):
        train(loss="accumulation", max_steps=1)
    assert train(loss="accumulation", scaling="standard", max_steps=1).provenance["updates"] == 1


def test_validation_has_the_loss_that_is_trained() -> None:
    """So the best weights, and those that are better than a start, are the best of what was asked for."""
    found = {
        loss: train(max_steps=1, loss=loss, scaling="standard").provenance
        for loss in ("l2", "l1+l2", "rain-weighted", "accumulation")
    }
    shares = [p["validation_loss"] / p["validation_persistence"] for p in found.values()]
    assert len(set(shares)) == len(shares)
    assert found["l1+l2"]["validation_persistence"] > found["l2"]["validation_persistence"]
    of_one_lead_time = train(max_steps=1, loss="accumulation", scaling="standard", steps=1).provenance
    assert of_one_lead_time["validation_persistence"] == pytest.approx(
        train(max_steps=1, scaling="standard", steps=1).provenance["validation_persistence"]
    )


@pytest.mark.parametrize("pairs", [(), ((5.0, 2.0), (2.0, 5.0)), ((2.0, 2.0), (2.0, 3.0)), ((2.0, 0.0),)])
def test_rain_weights_that_do_not_rise_are_refused(pairs: Any) -> None:
    with pytest.raises(RecipeError, match=r"rain_weights.*thresholds rising"):
        train(loss="rain-weighted", rain_weights=pairs)


# --- what is not finite


def _stands_in(data: xr.DataArray, text: str) -> list[npt.NDArray[np.float32]]:
    """Cut out of the data what the names of windows in an error say."""
    found = re.findall(r"(\S+) to (\S+), rows (\d+) to (\d+) and columns (\d+) to (\d+) from the upper left", text)
    cut = []
    for first, last, top, bottom, left, right in found:
        window = data.sel(time=slice(first, last)).values  # north up, west to east
        cut.append(window[:, int(top) : int(bottom) + 1, int(left) : int(right) + 1])
    return cut


def test_a_loss_that_is_not_finite_names_the_windows_of_its_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[npt.NDArray[np.float32]] = []

    def before(trainer: Any, module: Any, batch: Any) -> None:
        batches.append(batch.numpy().copy())
        if trainer.global_step == 3:
            with torch.no_grad():
                module.network.head.weight.mul_(1e30)  # the square overflows

    with_callback(monkeypatch, Each(before))
    with pytest.raises(ModelError, match=r"training, step 3: the loss is (inf|nan); windows: ") as caught:
        train(folder=tmp_path, batch_size=3)
    assert "\n" not in str(caught.value)
    named = _stands_in(rain(), str(caught.value))
    np.testing.assert_array_equal(np.stack(named)[:, :, None], batches[3])
    assert load_checkpoint(tmp_path / "last.ckpt")["global_step"] == 2


@pytest.mark.parametrize(("every", "last"), [(4, None), (2, 2), (3, 3)])
def test_weights_that_are_not_finite_are_never_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int, last: int | None
) -> None:
    """The gradient of the fourth update is lost: noticed at the checkpoint after it, or by the next loss."""
    batches: list[npt.NDArray[np.float32]] = []

    class Lost(Each):
        def on_after_backward(self, trainer: L.Trainer, module: Any) -> None:
            if trainer.global_step == 3:
                module.network.head.weight.grad.fill_(torch.nan)

    with_callback(monkeypatch, Lost(lambda trainer, module, batch: batches.append(batch.numpy().copy())))
    step, what = (4, "the loss is nan") if every == 3 else (3, "the weights are not finite after this update")
    with pytest.raises(ModelError, match=rf"training, step {step}: {what}; windows: ") as caught:
        train(folder=tmp_path, checkpoint_every=every)
    np.testing.assert_array_equal(np.stack(_stands_in(rain(), str(caught.value)))[:, :, None], batches[step])
    if last is None:
        assert not (tmp_path / "last.ckpt").exists()
    else:
        saved = load_checkpoint(tmp_path / "last.ckpt")
        assert saved["global_step"] == last
        assert all(torch.isfinite(v).all() for v in saved["state_dict"].values())


def test_weights_that_the_last_update_left_not_finite_are_not_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lost(L.Callback):
        def on_after_backward(self, trainer: L.Trainer, module: Any) -> None:
            module.network.head.weight.grad.fill_(torch.nan)

    with_callback(monkeypatch, Lost())
    with pytest.raises(ModelError, match=r"training, step 0: the weights are not finite after this update; windows"):
        train(max_steps=1, validation=0)


# --- validation


def test_validation_is_the_mean_over_observed_pixels_in_network_and_in_physical_units() -> None:
    """Two variables in their own units, missing pixels in histories and targets."""
    ds = weather(40)
    rng = np.random.default_rng(2)
    ds = ds.map(lambda v: v.where(rng.random(v.shape) > 0.15))
    ds["rain"][:, 2:5, 3:9] = np.nan  # never seen
    nowcaster = train(ds, max_steps=2, crop=None, validation_samples=2)
    raw = np.stack([ds["rain"].values, ds["temperature"].values], axis=1).astype(np.float32)
    windows = [raw[32:39], raw[33:40]]  # the latest fifth: frames 32 to 39
    z: dict[str, list[Any]] = {"error": [], "still": []}
    physical: dict[str, list[Any]] = {"error": [], "still": []}
    for window in windows:
        scaled = nowcaster.scaling.to_network(window).astype(np.float64)
        filled = np.zeros_like(scaled[:4])
        for t, c, i, j in np.ndindex(filled.shape):
            past = [s for s in range(t + 1) if np.isfinite(scaled[s, c, i, j])]
            known = [s for s in range(4) if np.isfinite(scaled[s, c, i, j])]
            if known:
                filled[t, c, i, j] = scaled[past[-1] if past else known[0], c, i, j]
        with torch.inference_mode():
            forecast = nowcaster.network(torch.from_numpy(filled[None].astype(np.float32)), steps=3)[0].numpy()
        still = np.repeat(filled[3:], 3, axis=0).astype(np.float32)
        z["error"].append(forecast - scaled[4:])
        z["still"].append(still - scaled[4:])
        physical["error"].append(nowcaster.scaling.to_physical(forecast) - window[4:])
        physical["still"].append(nowcaster.scaling.to_physical(still) - window[4:])
    found = nowcaster.provenance
    # Float32 forecasts, of one window at a time here and of two there.
    assert found["validation_loss"] == pytest.approx(np.nanmean(np.square(z["error"])), rel=1e-5)
    assert found["validation_persistence"] == pytest.approx(np.nanmean(np.square(z["still"])), rel=1e-5)
    for channel, name in enumerate(("rain", "temperature")):
        for kind, key in (("error", "forecast"), ("still", "persistence")):
            got = found["validation_mse"][name][key]
            expected = np.nanmean(np.square(physical[kind], dtype=np.float64)[:, :, channel], axis=(0, 2, 3))
            # Temperatures around 280 K have float32 steps of 3e-5.
            np.testing.assert_allclose(got, expected, rtol=1e-3 if name == "temperature" else 1e-5)


# --- presets


def test_the_faithful_preset_is_the_published_schedule() -> None:
    recipe = checked(TrainingRecipe, {"preset": "faithful"}, "fit")
    published = {
        "max_steps": 80_000, "batch_size": 8, "crop": None, "optimizer": "adam", "learning_rate": 1e-3,
        "schedule": "constant", "loss": "l2", "clip_norm": None, "truth_start": 1.0, "truth_decay": 2e-5,
        "context_truth_start": 1.0, "average": 0.0, "reversed_input": False, "precision": "fp32", "max_time": None,
        "patience": None, "weight_decay": 0.0,
    }  # fmt: skip
    assert {k: getattr(recipe, k) for k in published} == published


def test_the_tuned_preset_has_todays_recipe() -> None:
    recipe = checked(TrainingRecipe, {"preset": "tuned"}, "fit")
    assert recipe.optimizer == "adamw"
    assert recipe.weight_decay > 0
    assert recipe.schedule == "one-cycle"
    assert recipe.warm_up == 0.1
    assert recipe.clip_norm == 1.0
    assert recipe.average == 0.999
    # Both kinds of sampling meet their ends together, at 25,000 of 80,000 updates.
    assert recipe.context_truth_start + recipe.context_truth_rise * 25_000 == 1
    assert recipe.truth_start - recipe.truth_decay * 25_000 == 0
    assert recipe.max_steps == 80_000


@pytest.mark.parametrize("name", sorted(TRAINING_PRESETS))
def test_a_field_beside_a_preset_wins_and_a_recipe_written_out_is_itself(name: str) -> None:
    own = {"preset": name, "max_steps": 7, "learning_rate": 0.5, "average": 0.25, "truth_start": 0.125, "crop": 3}
    recipe = checked(TrainingRecipe, own, "fit")
    assert {k: getattr(recipe, k) for k in own} == own
    rest = set(TRAINING_PRESETS[name]) - set(own)
    assert {k: getattr(recipe, k) for k in rest} == {k: TRAINING_PRESETS[name][k] for k in rest}
    for dumped in (recipe.model_dump(), recipe.model_dump(mode="json")):
        assert checked(TrainingRecipe, dumped, "fit") == recipe


def test_a_preset_that_is_not_there_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"preset.*'small', 'fine-tune', 'tuned' or 'faithful'"):
        train(preset="faithfull")


@pytest.mark.parametrize("name", sorted(TRAINING_PRESETS))
def test_every_preset_trains(name: str) -> None:
    nowcaster = train(preset=name)
    assert nowcaster.provenance["updates"] == LONG["max_steps"]
    assert np.isfinite(nowcaster.forecast(rain())).all()


# --- hardware


def test_bf16_narrows_the_products_and_leaves_weights_and_loss_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = spied(monkeypatch)
    seen: list[Any] = []
    linear = torch.nn.Linear.forward

    def spy(self: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
        out = linear(self, x)
        seen.append(out.dtype)
        return out

    monkeypatch.setattr(torch.nn.Linear, "forward", spy)
    narrow = train(precision="bf16", validation=0, folder=tmp_path)
    assert set(seen) == {torch.bfloat16}
    assert {v.dtype for v in weights(narrow).values()} == {torch.float32}
    wide = train(precision="fp32", validation=0)
    assert torch.float32 in seen
    first, other = calls[0].prediction, calls[9].prediction
    assert not torch.equal(first, other)
    # Eight bits of mantissa, through seven steps.
    torch.testing.assert_close(first.float(), other, rtol=0.1, atol=0.1)
    assert narrow.digest != wide.digest


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"acceleration": "graph"}, r"training\.acceleration: graph, on cpu, expected one process on a CUDA device"),
        ({"device": "cuda:7"}, "cuda:7"),
        ({"acceleration": "fast"}, "acceleration"),
        ({"precision": "fp16"}, "precision"),
    ],
)
def test_hardware_that_is_asked_for_and_not_there_is_an_error_of_one_line(options: Any, message: str) -> None:
    if torch.cuda.device_count() > 7:
        pytest.skip("there are eight GPUs: run where there are fewer")
    with pytest.raises(RecipeError, match=message) as caught:
        train(**options)
    assert "\n" not in str(caught.value)


COMPILING = """
import sys
import torch
from sequences import rain
from trials import train
torch.set_num_threads(1)
nowcaster = train(acceleration="compile", max_steps=4, folder=sys.argv[1])
nowcaster.save(sys.argv[1] + "/compiled.nowcaster")
"""


def _in_a_process(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    import os

    tests = Path(__file__).parent
    paths = os.pathsep.join([str(tests), str(tests.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, "-c", COMPILING, str(folder)],
        env={**os.environ, "PYTHONPATH": paths, "TORCHINDUCTOR_CACHE_DIR": str(folder / "cache"), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_compiled_cells_train_to_the_same_losses_and_the_model_forecasts(tmp_path: Path) -> None:
    import shutil

    import sa_nowcast

    if shutil.which("g++") is None:
        pytest.skip("no C++ compiler: install g++")
    done = _in_a_process(tmp_path)
    assert done.returncode == 0, done.stderr
    plain = train(max_steps=4, folder=tmp_path / "plain")
    compiled = sa_nowcast.load(tmp_path / "compiled.nowcaster")
    # Fused loops round elsewhere: some float32 steps, through four updates.
    for one, other in zip(log_of(tmp_path), log_of(tmp_path / "plain"), strict=True):
        for name in ("loss", "validation_loss"):
            assert float(one[name]) == pytest.approx(float(other[name]), rel=1e-4)
    np.testing.assert_allclose(compiled.forecast(rain()), plain.forecast(rain()), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_without_a_compiler_compile_is_refused_before_training_in_one_line(tmp_path: Path) -> None:
    done = _in_a_process(tmp_path, CXX=str(tmp_path / "none"))
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert "RECIPE training.acceleration: compile, and torch cannot compile here" in last
    assert "expected a C++ compiler" in last
    assert last.endswith("give none.")
    assert not (tmp_path / LOG).exists()


# --- the log


def test_the_log_has_its_columns_and_the_mean_loss_since_the_row_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses: list[float] = []
    rates: list[float] = []
    with_callback(
        monkeypatch,
        Each(
            before=lambda trainer, *_: rates.append(trainer.optimizers[0].param_groups[0]["lr"]),
            after=lambda trainer, module, outputs: losses.append(float(outputs["loss"])),
        ),
    )
    train(folder=tmp_path, log_every=3, validate_every=4, truth_start=1.0, truth_decay=0.01)
    header = (tmp_path / LOG).read_text().splitlines()[0]
    assert header == (
        "step,loss,validation_loss,validation_persistence,learning_rate,truth_probability,samples_per_second,memory_mib"
    )
    rows = log_of(tmp_path)
    steps = [int(row["step"]) for row in rows]
    assert steps == [3, 4, 6, 8, 9]
    for before, row in zip([0, *steps], rows, strict=False):
        step = int(row["step"])
        assert float(row["loss"]) == pytest.approx(np.mean(losses[before:step]), rel=1e-5)
        assert bool(row["validation_loss"]) == bool(row["validation_persistence"]) == (step in (4, 8, 9))
        assert float(row["truth_probability"]) == pytest.approx(1 - 0.01 * step)
        if step < 9:
            assert float(row["learning_rate"]) == pytest.approx(rates[step], rel=1e-5)


def test_a_file_in_the_logs_place_that_is_none_is_refused_in_one_line(tmp_path: Path) -> None:
    from sa_nowcast.errors import StorageError

    for text in ("step,loss\n1,high\n", "name,value\n1,2\n", "step,loss\n1,2,3\n"):
        (tmp_path / LOG).write_text(text)
        with pytest.raises(StorageError, match=r"training\.csv: not the log of a run") as caught:
            train(folder=tmp_path)
        assert "\n" not in str(caught.value)
