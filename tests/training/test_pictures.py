from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from matplotlib import pyplot as plt
from PIL import Image
from sequences import NETWORK, OPTIONS, rain, traffic
from test_fit import Crash, StopAfter, same_bits, with_callback
from torch import Tensor

import sa_nowcast.training.pictures as pictures
from sa_nowcast.computing.installing import install
from sa_nowcast.errors import Interrupted, StorageError
from sa_nowcast.forecasts.nowcaster import Nowcaster
from sa_nowcast.forecasts.terms import Terms
from sa_nowcast.models import NetworkConfig
from sa_nowcast.recipe import TrainingRecipe
from sa_nowcast.scaling import Scaling
from sa_nowcast.training.checkpoint import load_checkpoint
from sa_nowcast.training.data import TrainingData
from sa_nowcast.training.fit import fit, fit_prepared

FEW = {**OPTIONS, "max_steps": 4, "validate_every": 4, "checkpoint_every": 2, "pictures": 1}


def train(data: Any = None, **options: Any) -> Nowcaster:
    given = {"history": 4, "steps": 3, "network": NETWORK, "progress": False} | FEW | options
    return fit(rain() if data is None else data, **given)


def drawn(folder: Path) -> list[str]:
    """All files below the folder's pictures, hidden ones too."""
    found = (folder / "pictures").rglob("*")
    return sorted(f.relative_to(folder / "pictures").as_posix() for f in found if f.is_file())


class Recorder:
    """Notes what `Pictures` forecasts and draws, and lets it go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.forecasts: list[tuple[np.ndarray, np.ndarray]] = []
        self.figures: list[Any] = []
        forecast, rendered = pictures.Pictures._forecast, pictures.rendered

        def note_forecast(this: pictures.Pictures, window: int) -> Any:
            self.forecasts.append(forecast(this, window))
            return self.forecasts[-1]

        def note_figure(figure: Any) -> Any:
            self.figures.append(figure)
            return rendered(figure)

        monkeypatch.setattr(pictures.Pictures, "_forecast", note_forecast)
        monkeypatch.setattr(pictures, "rendered", note_figure)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    return Recorder(monkeypatch)


def heads(figure: Any) -> list[str]:
    """The titles of the panels, from left to right and top to bottom."""
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def test_every_validation_draws_each_of_the_windows_once(tmp_path: Path) -> None:
    train(folder=tmp_path, pictures=2, max_steps=3, validate_every=2)
    assert drawn(tmp_path) == [f"window-{window}/step-00000{step}.png" for window in (1, 2) for step in (2, 3)]
    for name in drawn(tmp_path):
        with Image.open(tmp_path / "pictures" / name) as image:
            assert image.format == "PNG"
            assert np.ptp(np.asarray(image)) > 0


def test_no_more_windows_are_drawn_than_are_validated_on(tmp_path: Path) -> None:
    train(folder=tmp_path, pictures=9, validation_samples=1)
    assert drawn(tmp_path) == ["window-1/step-000004.png"]


def test_what_is_drawn_is_the_forecast_of_the_validated_weights(tmp_path: Path, recorder: Recorder) -> None:
    data = rain()
    nowcaster = train(data, folder=tmp_path, average=0.9, validation_samples=1, crop=None)
    (window, forecast), = recorder.forecasts  # fmt: skip
    np.testing.assert_array_equal(window, data.values[13:])
    # One window or several in a batch: the last bits of float32 products may differ.
    np.testing.assert_allclose(forecast, nowcaster.forecast(data[:17]), rtol=1e-5, atol=1e-5)
    # Which is another forecast than that of the weights as they are.
    last = load_checkpoint(tmp_path / "last.ckpt")["state_dict"]
    assert not torch.equal(last["network.head.weight"], nowcaster.network.state_dict()["head.weight"])


def test_panels_have_lead_times_and_valid_times_and_the_title_says_what_is_drawn(
    tmp_path: Path, recorder: Recorder
) -> None:
    train(folder=tmp_path, validation_samples=1)
    figure, = recorder.figures  # fmt: skip
    assert heads(figure) == [
        "−15 min\n01:05", "−10 min\n01:10", "−5 min\n01:15", "start\n01:20",
        "+5 min\n01:25", "+10 min\n01:30", "+15 min\n01:35",
    ]  # fmt: skip
    title = " ".join(figure.get_suptitle().split())
    assert title.startswith(
        "rain rate (mm h-1) from 2020-06-01T01:20, after 4 updates; validation window 1, rows "
    )  # fmt: skip


def test_of_several_channels_the_first_is_drawn_and_named(tmp_path: Path, recorder: Recorder) -> None:
    train(traffic(), folder=tmp_path, validation_samples=1, crop=None)
    (window, _), = recorder.forecasts  # fmt: skip
    np.testing.assert_array_equal(window, traffic().values[13:, 0])
    assert " ".join(recorder.figures[0].get_suptitle().split()).startswith("in, first of 2 channels from 2020-06-01T")


def test_pixels_without_any_known_value_have_no_forecast(tmp_path: Path, recorder: Recorder) -> None:
    data = rain()
    data[:, 3:6, 4:9] = np.nan
    data[15, 10, 10] = np.nan  # known at other times of the history
    train(data, folder=tmp_path, validation_samples=1, crop=None)
    hidden = np.zeros(data.shape[1:], dtype=bool)
    hidden[3:6, 4:9] = True
    np.testing.assert_array_equal(np.isnan(recorder.forecasts[0][1]), np.broadcast_to(hidden, (3, *hidden.shape)))


class Made:
    """Samples that are made, and have no times: a bright pixel that walks."""

    sample_shape = (7, 1, 12, 12)
    device = torch.device("cpu")

    def __len__(self) -> int:
        return 8

    def batch(self, samples: Sequence[int]) -> Tensor:
        out = torch.zeros(len(samples), *self.sample_shape)
        for entry, sample in zip(out, samples, strict=True):
            for t in range(7):
                entry[t, 0, (sample + t) % 12, t] = 255.0
        return out

    def __getitems__(self, samples: Sequence[int]) -> list[Tensor]:
        return list(self.batch(samples).unbind(0))

    def stripe(self, sample: int) -> int:
        return sample

    def describe(self, sample: int) -> str:
        return f"sample {sample}"


def test_frames_of_samples_without_times_are_counted(tmp_path: Path, recorder: Recorder) -> None:
    values = Made().batch([0]).numpy()
    made = TrainingData(
        Made(),
        Made(),
        Scaling.fit("minmax", [_grey()], [values[0]]),
        Terms(4, 3, 10**9, (("digits", None),), None, None, None),
        "made",
        {},
    )
    recipe = TrainingRecipe(**FEW)
    fit_prepared(made, NetworkConfig(**{**NETWORK, "channels": 1}), "minmax", recipe, folder=tmp_path, progress=False)
    figure, = recorder.figures  # fmt: skip
    assert heads(figure) == [f"frame {n}" for n in range(1, 8)]
    assert " ".join(figure.get_suptitle().split()) == "digits, after 4 updates; validation window 1"
    assert drawn(tmp_path) == ["window-1/step-000004.png"]


def _grey() -> Any:
    from sa_nowcast.frames import Channel

    return Channel("digits", None, {})


@pytest.mark.parametrize(
    ("data", "options"),
    [
        (rain(height=1, width=24), {"network": {**NETWORK, "patch": 1}}),
        (xr.concat([rain(13), xr.zeros_like(rain())[13:]], "time"), {}),
        (rain(), {"steps": 1}),
        (rain(), {"history": 1}),
        (rain(60), {"steps": 9, "history": 9}),
        (rain().drop_vars(["y", "x"]).rename(y="row", x="column").assign_attrs(units="1"), {"crop": None}),
    ],
    ids=[
        "one row",
        "nothing but zeros to validate on",
        "one step",
        "one frame",
        "more frames than columns",
        "no coordinates",
    ],
)
def test_any_sequence_that_can_be_trained_on_is_drawn(
    tmp_path: Path, data: xr.DataArray, options: dict[str, Any]
) -> None:
    train(data, folder=tmp_path, **options)
    assert drawn(tmp_path) == ["window-1/step-000004.png"]


# --- nothing else is touched


def test_pictures_change_no_bit_of_the_weights(tmp_path: Path) -> None:
    with_pictures = train(folder=tmp_path / "a", pictures=2, average=0.5, truth_start=0.5)
    without = train(folder=tmp_path / "b", pictures=0, average=0.5, truth_start=0.5)
    assert same_bits(with_pictures, without)
    assert not (tmp_path / "b" / "pictures").exists()


def test_random_numbers_and_the_users_figures_stay_as_they_were(tmp_path: Path) -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    users = plt.figure()
    before, legacy, settings = torch.get_rng_state(), np.random.get_state()[1].copy(), dict(plt.rcParams)
    train(folder=tmp_path, tensorboard=True)
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(np.random.get_state()[1], legacy)
    assert dict(plt.rcParams) == settings
    assert plt.get_fignums() == [users.number]
    assert plt.gcf() is users
    plt.close(users)


def test_time_spent_on_pictures_is_not_time_spent_on_updates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rendered, nap = pictures.rendered, 0.4

    def slowly(figure: Any) -> Any:
        time.sleep(nap)
        return rendered(figure)

    monkeypatch.setattr(pictures, "rendered", slowly)
    train(folder=tmp_path, validate_every=1)
    with (tmp_path / "training.csv").open() as file:
        header, *rows = (line.strip().split(",") for line in file)
    pace = [float(row[header.index("samples_per_second")]) for row in rows]
    # Two windows an update; with the naps in it no row could have a higher pace than this.
    assert max(pace) > 2 / nap


# --- interrupted and resumed


def test_pictures_that_an_interrupted_run_did_not_draw_are_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_callback(monkeypatch, StopAfter(1))
    with pytest.raises(Interrupted):
        train(folder=tmp_path, validate_every=2)
    monkeypatch.undo()
    assert load_checkpoint(tmp_path / "last.ckpt")["global_step"] == 2
    assert drawn(tmp_path) == []
    train(folder=tmp_path, validate_every=2)
    assert drawn(tmp_path) == ["window-1/step-000002.png", "window-1/step-000004.png"]


def test_a_killed_run_draws_the_same_pictures_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_callback(monkeypatch, Crash(3))
    with pytest.raises(MemoryError):
        train(folder=tmp_path / "killed", validate_every=2)
    monkeypatch.undo()
    train(folder=tmp_path / "killed", validate_every=2)
    train(folder=tmp_path / "unbroken", validate_every=2)
    names = drawn(tmp_path / "unbroken")
    assert drawn(tmp_path / "killed") == names
    for name in names:
        both = [(tmp_path / run / "pictures" / name).read_bytes() for run in ("killed", "unbroken")]
        assert both[0] == both[1]


# --- what is lacking


def test_what_pictures_lack_is_reported_in_one_line_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lines(**options: Any) -> list[str]:
        told: list[str] = []
        train(report=told.append, **options)
        return [line for line in told if "pictures" in line]

    assert lines(folder=tmp_path / "all") == []
    assert lines() == ["no pictures of forecasts: there is no run folder to put them into"]
    assert lines(pictures=0) == []
    assert lines(folder=tmp_path / "last", validation=0) == ["no pictures of forecasts: there is no validation period"]
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert lines(folder=tmp_path / "bare") == [
        f"no pictures of forecasts: matplotlib is not installed; {install('plot')} adds it"
    ]
    assert drawn(tmp_path / "bare") == []


def test_a_folder_that_takes_no_pictures_is_a_storage_error_and_leaves_no_part_of_one(tmp_path: Path) -> None:
    (tmp_path / "pictures").write_text("a file")
    with pytest.raises(StorageError, match=r"step-000004\.png: the picture could not be written.*pictures=0"):
        train(folder=tmp_path)
    assert (tmp_path / "pictures").read_text() == "a file"


def test_a_picture_that_fails_on_the_way_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(image: Any, file: Path, *_: Any) -> None:
        Path(file).write_bytes(b"\x89PNG")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", half)
    with pytest.raises(StorageError, match="No space left on device"):
        train(folder=tmp_path)
    assert drawn(tmp_path) == []
