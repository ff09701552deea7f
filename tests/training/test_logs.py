from __future__ import annotations

import csv
import io
import re
import time
from pathlib import Path
from typing import Any

import lightning.fabric.loggers.tensorboard as lightning_tensorboard
import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL import Image
from sequences import NETWORK, OPTIONS, rain
from tensorboard.backend.event_processing.event_accumulator import IMAGES, SCALARS, EventAccumulator
from test_fit import Crash, with_callback

from sa_nowcast.computing.installing import install
from sa_nowcast.errors import MissingLibraryError, RecipeError
from sa_nowcast.forecasts.nowcaster import Nowcaster
from sa_nowcast.training.fit import fit

RUN = {
    **OPTIONS,
    "max_steps": 6,
    "validate_every": 3,
    "checkpoint_every": 2,
    "log_every": 1,
    "truth_start": 0.5,
    "pictures": 0,
}
SAME = {"loss", "validation_loss", "validation_persistence", "learning_rate", "truth_probability"}
"""What two runs of the same recipe share; pace and memory are the machine's."""


def train(**options: Any) -> Nowcaster:
    given = {"history": 4, "steps": 3, "network": NETWORK, "progress": False} | RUN | options
    return fit(rain(), **given)


def table(path: Path) -> dict[str, dict[int, float]]:
    """A CSV file's figures by name and step."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name not in ("step", "epoch")]
    return {name: {int(row["step"]): float(row[name]) for row in rows if row[name]} for name in names}


def board(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={SCALARS: 0, IMAGES: 0}).Reload()


def scalars(events: EventAccumulator) -> dict[str, list[tuple[int, float]]]:
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_the_tensorboard_log_holds_what_the_table_holds(tmp_path: Path) -> None:
    train(folder=tmp_path, tensorboard=True)
    written, read = table(tmp_path / "training.csv"), scalars(board(tmp_path / "tensorboard"))
    assert set(read) == set(written) == SAME | {"samples_per_second", "memory_mib"}
    assert list(written["loss"]) == [1, 2, 3, 4, 5, 6]
    assert list(written["validation_loss"]) == [3, 6]
    for name, values in written.items():
        assert [step for step, _ in read[name]] == list(values)
        # The table has six digits, TensorBoard float32.
        np.testing.assert_allclose([value for _, value in read[name]], list(values.values()), rtol=1e-5)


def test_the_tensorboard_log_holds_the_pictures(tmp_path: Path) -> None:
    train(folder=tmp_path, tensorboard=True, pictures=2)
    events = board(tmp_path / "tensorboard")
    assert events.Tags()["images"] == ["pictures/window-1", "pictures/window-2"]
    for tag in events.Tags()["images"]:
        found = events.Images(tag)
        assert [image.step for image in found] == [3, 6]
        for image in found:
            file = tmp_path / tag / f"step-{image.step:06d}.png"
            with Image.open(io.BytesIO(image.encoded_image_string)) as logged, Image.open(file) as drawn:
                np.testing.assert_array_equal(np.asarray(logged), np.asarray(drawn))


def test_a_resumed_run_takes_back_what_the_killed_one_logged_after_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_callback(monkeypatch, Crash(5))
    with pytest.raises(MemoryError):
        train(folder=tmp_path / "killed", tensorboard=True, pictures=1)
    monkeypatch.undo()
    time.sleep(1.1)  # logs of one second are read in the order of their numbers as text: 10 before 9
    train(folder=tmp_path / "killed", tensorboard=True, pictures=1)
    train(folder=tmp_path / "unbroken", tensorboard=True)
    events = [board(tmp_path / run / "tensorboard") for run in ("killed", "unbroken")]
    killed, unbroken = (scalars(e) for e in events)
    assert {name: killed[name] for name in SAME} == {name: unbroken[name] for name in SAME}
    assert [i.step for i in events[0].Images("pictures/window-1")] == [3, 6]


def test_a_tensorboard_log_without_a_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match=r"training\.tensorboard: true, and there is no folder.*pass folder="):
        train(tensorboard=True)
    assert list(tmp_path.iterdir()) == []


def test_without_tensorboard_the_install_command_is_said_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lightning_tensorboard, "_TENSORBOARD_AVAILABLE", False)
    monkeypatch.setattr(lightning_tensorboard, "_TENSORBOARDX_AVAILABLE", False)
    with pytest.raises(MissingLibraryError, match=re.escape(install("tensorboard"))):
        train(folder=tmp_path, tensorboard=True)
    assert list(tmp_path.iterdir()) == []
    train(folder=tmp_path)


def test_other_loggers_get_the_same_figures(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="mine", version="one")
    train(folder=tmp_path / "run", loggers=[logger])
    ours, theirs = table(tmp_path / "run" / "training.csv"), table(tmp_path / "mine" / "one" / "metrics.csv")
    assert set(theirs) == set(ours)
    for name, values in ours.items():
        assert list(theirs[name]) == list(values)
        np.testing.assert_allclose(list(theirs[name].values()), list(values.values()), rtol=1e-5)


def test_a_tensorboard_logger_of_the_users_gets_pictures_without_a_folder(tmp_path: Path) -> None:
    told: list[str] = []
    train(loggers=[TensorBoardLogger(tmp_path, name="mine", version="one")], report=told.append, pictures=1)
    events = board(tmp_path / "mine" / "one")
    assert [image.step for image in events.Images("pictures/window-1")] == [3, 6]
    assert [e.step for e in events.Scalars("loss")] == [1, 2, 3, 4, 5, 6]
    assert not any("pictures" in line for line in told)
    assert [f.name for f in tmp_path.iterdir()] == ["mine"]


def test_loggers_do_not_change_a_bit(tmp_path: Path) -> None:
    loggers = [CSVLogger(tmp_path), TensorBoardLogger(tmp_path, name="board")]
    assert train(loggers=loggers).digest == train().digest
