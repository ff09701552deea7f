"""Training: its data, its folder, its log, and the stream of windows."""

from __future__ import annotations

import ast
import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from sequences import NETWORK, rain, weather
from trials import ON_ITS_OWN, StopAfter, free_port, machine, train, with_callback

from remedies.trial import assert_installs, full, keywords, remedy, uninstalled
from sa_nowcast.errors import Interrupted
from sa_nowcast.recipe import parse_recipe
from sa_nowcast.stream import SequenceDataset, loader
from sa_nowcast.training import launch
from sa_nowcast.training.checkpoint import load_checkpoint
from sa_nowcast.training.launch import launched
from sa_nowcast.windows import split_in_time
from sa_nowcast.workflow.data import open_experiment

LAST = "last.ckpt"
ROOM = 20_000


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    train(folder=tmp_path / "run")
    return tmp_path / "run"


@remedy("training/checkpoint.py", "free space or choose another folder")
@pytest.mark.parametrize("how", ["space", "folder"])
def test_a_checkpoint_on_a_full_disk(how, tmp_path):
    def call():
        with full(ROOM):
            train(folder=tmp_path / "run")

    yield call
    yield lambda: train(folder=tmp_path / ("run" if how == "space" else "other"))


def _checkpoint(folder: Path) -> Path:
    return next(iter(sorted(folder.glob("*.ckpt"))))


@remedy("training/checkpoint.py", "remove it to start from the one before")
def test_a_damaged_checkpoint(trained):
    file = _checkpoint(trained)
    whole = shutil.copy(file, trained / "before.ckpt")
    file.write_bytes(b"damaged")
    yield lambda: load_checkpoint(file)
    file.unlink()
    train(folder=trained)
    yield lambda: load_checkpoint(Path(whole))


@remedy("training/checkpoint.py", "remove it")
def test_a_checkpoint_of_something_else(trained):
    from sa_nowcast.training.checkpoint import seal

    file = _checkpoint(trained)
    torch.save({"weights": 1}, file)
    seal(file)
    yield lambda: load_checkpoint(file)
    file.unlink()
    yield lambda: train(folder=trained)


@remedy("training/run_folder.py", "choose another output folder, or remove this one to start anew")
@pytest.mark.parametrize("how", ["other", "remove"])
def test_a_folder_of_another_training(how, trained):
    yield lambda: train(folder=trained, learning_rate=0.5)
    if how == "remove":
        shutil.rmtree(trained)
    yield lambda: train(folder=trained if how == "remove" else trained.with_name("other"), learning_rate=0.5)


@remedy("training/engine.py", "run the same again to go on")
def test_a_training_that_was_stopped_goes_on(tmp_path, monkeypatch):
    def stopped():
        with monkeypatch.context() as patch:
            with_callback(patch, StopAfter(3))
            train(folder=tmp_path)

    yield stopped
    yield lambda: train(folder=tmp_path)


@remedy("training/engine.py", "pass folder= to be able to resume")
def test_a_training_without_a_folder_that_was_stopped(tmp_path, monkeypatch):
    def stopped(**options):
        with monkeypatch.context() as patch:
            with_callback(patch, StopAfter(3))
            train(**options)

    yield stopped
    with pytest.raises(Interrupted):
        stopped(folder=tmp_path)
    yield lambda: train(folder=tmp_path)


@remedy("training/engine.py", "pass folder=, or a TensorBoardLogger of your own in loggers=")
@pytest.mark.parametrize("how", ["folder", "logger"])
def test_a_log_of_tensorboard_without_a_folder(how, tmp_path):
    from lightning.pytorch.loggers import TensorBoardLogger

    yield lambda: train(tensorboard=True)
    if how == "folder":
        yield lambda: train(tensorboard=True, folder=tmp_path)
    else:
        yield lambda: train(loggers=[TensorBoardLogger(tmp_path)])


@remedy("storage/whole.py", "choose another folder")
def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("no folder")
    yield lambda: train(folder=tmp_path / "file" / "run")
    yield lambda: train(folder=tmp_path / "run")


@remedy("training/hardware.py", "give auto")
def test_a_graph_without_a_device():
    fix = yield lambda: train(acceleration="graph")
    yield lambda: train(acceleration=fix.removeprefix("give "))


@remedy("training/hardware.py", "install it, or give none")
def test_no_compiler(monkeypatch, tmp_path):
    """That a compiler which is there compiles is another test, which takes a minute."""
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", (None, str(tmp_path / "none")))
    torch._dynamo.reset()
    fix = yield lambda: train(acceleration="compile")
    yield lambda: train(acceleration=fix.rpartition(" ")[2])


@remedy("training/launch.py", "give the launcher the same number of processes for each machine")
def test_machines_with_different_numbers_of_processes(monkeypatch):
    for name, number in {"RANK": 0, "LOCAL_RANK": 0, "GROUP_RANK": 0, "WORLD_SIZE": 3, "LOCAL_WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(number))
    for name in ("TORCHELASTIC_RUN_ID", "MASTER_ADDR"):
        monkeypatch.setenv(name, "localhost")
    monkeypatch.setenv("MASTER_PORT", "0")
    yield launched
    monkeypatch.setenv("WORLD_SIZE", "4")


@pytest.fixture
def of_two(monkeypatch):
    """Does a function of 0 here, and of 1 in another process."""

    def both(function: Callable[[int], object]) -> None:
        told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "GLOO_SOCKET_IFNAME": "lo"}
        for name, value in (ON_ITS_OWN | told | {"RANK": "0", "GROUP_RANK": "0"}).items():
            monkeypatch.setenv(name, value)
        other = os.fork()
        if not other:
            try:
                machine(1)
                function(1)
            finally:
                os._exit(0)
        try:
            function(0)
        finally:
            os.waitpid(other, 0)

    return both


@remedy(
    "training/launch.py",
    "see what those say that did not come, open this port to the other machines, and start all at once",
)
def test_a_machine_that_does_not_come(of_two, monkeypatch):
    monkeypatch.setattr(launch, "MEET_WITHIN", 1.0)
    yield lambda: of_two(lambda number: number or launch.meet(launched(), 0, None))
    monkeypatch.setattr(launch, "MEET_WITHIN", 60.0)
    yield lambda: of_two(lambda number: launch.meet(launched(), 0, None))


@remedy("training/launch.py", "name an output folder on a disk that all machines share")
def test_machines_with_checkpoints_of_their_own(of_two, tmp_path):
    yield lambda: of_two(lambda number: launch.meet(launched(), 2 * number, tmp_path))
    yield lambda: of_two(lambda number: launch.meet(launched(), 2, tmp_path))


@remedy(
    "training/launch.py",
    "see what that one says, and start all again, with folder= to go on",
    "see what that one says, and start all again; they go on from what is saved in …",
)
@pytest.mark.parametrize("folder", [None, "run"])
def test_a_machine_that_is_gone(folder, of_two, tmp_path):
    """The trained weights after it are another test's."""
    path = None if folder is None else tmp_path / folder

    def update(number: int, dies: bool) -> None:
        torch.distributed.init_process_group("gloo")
        if dies and number:
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            torch.distributed.all_reduce(torch.ones(1))
        except RuntimeError as error:
            raise launch.lost(error, launched(), 1, path) from error
        finally:
            torch.distributed.destroy_process_group()

    yield lambda: of_two(lambda number: update(number, dies=True))
    yield lambda: of_two(lambda number: update(number, dies=False))


@remedy("training/log.py", "free space or choose another folder")
@pytest.mark.parametrize("how", ["space", "folder"])
def test_a_log_on_a_full_disk(how, tmp_path):
    # The checkpoints are larger than the log, so here only the log is written.
    from sa_nowcast.training.log import FIELDS, TrainingLog

    def write(folder):
        log = TrainingLog.__new__(TrainingLog)
        log.folder, log.rows = folder, [dict.fromkeys(FIELDS, 1.0)] * 4000
        log.write()

    def on_full_disk():
        with full(ROOM):
            write(tmp_path)

    yield on_full_disk
    (tmp_path / "other").mkdir()
    yield lambda: write(tmp_path if how == "space" else tmp_path / "other")


@remedy("training/log.py", "move it away; the run itself can go on without")
def test_a_log_that_is_none(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        with_callback(patch, StopAfter(3))
        with pytest.raises(Interrupted):
            train(folder=tmp_path)
    (tmp_path / "training.csv").write_text("a,b\n1,2\n")
    yield lambda: train(folder=tmp_path)
    (tmp_path / "training.csv").rename(tmp_path / "notes.csv")


@remedy("training/module.py", "lower training.learning_rate, and take another output folder")
def test_a_loss_that_is_not_finite(tmp_path):
    yield lambda: train(learning_rate=1e18, clip_norm=None, folder=tmp_path / "run")
    yield lambda: train(learning_rate=1e-3, clip_norm=None, folder=tmp_path / "other")


@remedy("training/pictures.py", "free space, or train with pictures=0 (training.pictures: 0)")
@pytest.mark.parametrize("how", ["space", "none"])
def test_pictures_on_a_full_disk(how, tmp_path):
    """A file stands where the folder of pictures is to be; the disk is full for them alone."""
    (tmp_path / "pictures").write_text("no folder")
    fix = yield lambda: train(folder=tmp_path, pictures=2)
    options = {"pictures": 2}
    if how == "space":
        (tmp_path / "pictures").unlink()
    else:
        options = keywords(fix.partition(" (")[0])
        assert yaml.safe_load(fix.partition("(training.")[2].rstrip(")")) == options
    yield lambda: train(folder=tmp_path, **options)


@remedy("training/data.py", "shorten history or steps, or fill the gaps")
@pytest.mark.parametrize("how", ["history", "steps", "fill"])
def test_a_training_period_without_a_window(how):
    whole = rain(40)
    holed = whole.isel(time=[t for t in range(40) if t % 5])
    given = {"history": 4, "steps": 3, "validation": 0.0, "gaps": "skip"}
    yield lambda: train(holed, **given)
    shorter = {"history": {"history": 1}, "steps": {"history": 3, "steps": 1}, "fill": {}}[how]
    yield lambda: train(whole if how == "fill" else holed, **{**given, **shorter})


@remedy("training/data.py", "give validation a larger share, or 0 to do without")
@pytest.mark.parametrize("share", [0.6, 0.0])
def test_a_validation_period_without_a_window(share):
    data = rain(60).isel(time=[t for t in range(60) if t < 40 or t % 5])
    fix = yield lambda: train(data, gaps="skip", validation=0.25)
    yield lambda: train(data, gaps="skip", **{fix.split()[1]: share})


@remedy("training/data.py", "pass gaps='skip' (data.gaps: skip), or fill it in")
@pytest.mark.parametrize("how", ["skip", "fill"])
def test_a_frame_without_a_value(how):
    data = rain(40)
    data[5] = np.nan
    fix = yield lambda: train(data)
    yield (lambda: train(data, **keywords(fix))) if how == "skip" else (lambda: train(data.interpolate_na("time")))


@remedy("training/data.py", "convert the values, or take loss: l2 or l1+l2")
@pytest.mark.parametrize("how", ["convert", "l2", "l1+l2"])
def test_the_loss_of_rain_for_other_units(how):
    data = (rain() / 3600).assign_attrs(units="m s-1")
    fix = yield lambda: train(data, loss="rain-weighted")
    assert how == "convert" or how in fix.split()
    if how == "convert":
        yield lambda: train(rain(), loss="rain-weighted")
    else:
        yield lambda: train(data, loss=how)


@remedy("training/data.py", "pass scaling='standard' (scaling: standard), or take loss: l2")
@pytest.mark.parametrize("how", ["scaling", "l2"])
def test_the_loss_of_accumulations_of_logarithms(how):
    fix = yield lambda: train(rain(), loss="accumulation")
    if how == "scaling":
        yield lambda: train(rain(), loss="accumulation", **keywords(fix.split(" (")[0]))
    else:
        yield lambda: train(rain(), loss=fix.split()[-1])


@remedy("training/data.py", "leave it out")
def test_augmentation_of_made_sequences(tmp_path):
    text = yaml.safe_dump(
        {
            "name": "made", "history": 2, "steps": 2, "data": {"source": "sample:mrms", "engine": "synthetic_fields",
            "options": {"size": 32, "test_sequences": 1}}, "network": {"hidden": [4], "output": "moving"},
            "training": {"augment": ["flips"]}, "output": {"folder": str(tmp_path)},
        }
    )  # fmt: skip
    yield lambda: open_experiment(parse_recipe(text)).training("auto", None)
    yield lambda: open_experiment(parse_recipe(text.replace("  augment:\n  - flips\n", "  batch_size: 2\n"))).training(
        "auto"
    )


@remedy("computing/installing.py", "… …")
def test_no_tensorboard(tmp_path, monkeypatch):
    import lightning.fabric.loggers.tensorboard as lightning_tensorboard

    def call():
        with monkeypatch.context() as absent:
            absent.setattr(lightning_tensorboard, "_TENSORBOARD_AVAILABLE", False)
            absent.setattr(lightning_tensorboard, "_TENSORBOARDX_AVAILABLE", False)
            train(tensorboard=True, folder=tmp_path)

    fix = yield call
    assert_installs(fix, "tensorboard")
    yield lambda: train(tensorboard=True, folder=tmp_path)


@remedy("computing/installing.py", "… …")
def test_no_lightning(monkeypatch):
    def call():
        with uninstalled(monkeypatch, "lightning"):
            train()

    fix = yield call
    assert_installs(fix, "lightning")
    yield lambda: train()


@remedy("windows.py", "give more frames, shorten history or steps, or leave out a split")
@pytest.mark.parametrize("how", ["frames", "shorten", "split"])
def test_too_few_frames_for_all_periods(how):
    given = {"frames": 20, "length": 7, "validation": 0.3, "test": 0.3, "guard": 2}
    yield lambda: split_in_time(**given)
    more = {"frames": {"frames": 60}, "shorten": {"length": 3}, "split": {"test": 0.0}}[how]
    yield lambda: split_in_time(**{**given, **more})


# --- what training starts from


@remedy("training/start.py", "leave network out, or start")
@pytest.mark.parametrize("how", ["network", "start"])
def test_a_network_that_is_not_the_starts(how, nowcaster):
    other = {**NETWORK, "hidden": (8,)}
    yield lambda: train(network=other, start=nowcaster)
    yield lambda: train(network=None, start=nowcaster) if how == "network" else train(network=other)


@remedy("training/start.py", "give history=4, or network={'preset': 'small'} to train from random weights")
@pytest.mark.parametrize("how", ["history", "network"])
def test_a_history_that_shows_no_motion(how):
    few = {"max_steps": 1, "validation_samples": 1, "batch_size": 1}
    fix = yield lambda: train(network=None, history=1, **few)
    network = ast.literal_eval(fix.partition("network=")[2].partition(" to ")[0])
    given = {"history": 1, "network": network} if how == "network" else {**keywords(fix), "network": None}
    assert given["history"] == (1 if how == "network" else 4)
    yield lambda: train(**given, **few)


@remedy("training/start.py", "choose as many variables, or another start")
@pytest.mark.parametrize("how", ["variables", "start"])
def test_a_start_of_other_channels(how, nowcaster, weather_nowcaster):
    yield lambda: train(weather(), network=None, start=nowcaster)
    if how == "variables":
        yield lambda: train(weather()["rain"], network=None, start=nowcaster)
    else:
        yield lambda: train(weather(), network=None, start=weather_nowcaster)


# --- the stream of windows


@remedy("stream/dataset.py", "give a square crop")
def test_turns_of_oblong_samples():
    yield lambda: SequenceDataset(rain(), 4, 3, turns=True)
    yield lambda: SequenceDataset(rain(), 4, 3, turns=True, crop=8)


@remedy("stream/dataset.py", "fit it to a dataset without device=")
def test_a_scaling_of_data_on_a_device():
    yield lambda: SequenceDataset(rain(), 4, 3, device="cpu").fit_scaling()
    yield lambda: SequenceDataset(rain(), 4, 3).fit_scaling()


@remedy(
    "stream/dataset.py",
    "give more frames (the longest stretch without a gap has …), or shorten history or steps",
)
@pytest.mark.parametrize("how", ["more", "shorten"])
def test_no_window(how):
    fix = yield lambda: SequenceDataset(rain(6), 4, 3)
    longest = int(fix.partition("a gap has ")[2].partition(")")[0])
    assert longest == 6
    yield (
        (lambda: SequenceDataset(rain(7), 4, 3))
        if how == "more"
        else (lambda: SequenceDataset(rain(6), longest - 1, 1))
    )


@remedy("stream/loader.py", "make it with first= the batch to begin with")
def test_the_epoch_of_a_loader_of_steps():
    dataset = SequenceDataset(rain(), 4, 3)
    yield lambda: loader(dataset, 2, batches=8).set_epoch(2)
    yield lambda: next(iter(loader(dataset, 2, batches=8, first=4)))


def _read_on(number: int):
    source = loader(SequenceDataset(rain(60), 4, 3, crop=8), 2, batches=50, workers=1)
    stream = iter(source)
    next(stream)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, number)
    try:
        for _ in stream:
            pass
    finally:
        worker.kill()


@remedy("stream/workers.py", "run the same again, or read with workers=0")
def test_a_worker_that_was_stopped(monkeypatch):
    monkeypatch.setattr(sys.modules["sa_nowcast.stream.workers"], "LOOK_EVERY", 0.3)
    fix = yield lambda: _read_on(signal.SIGSTOP)
    yield lambda: list(loader(SequenceDataset(rain(60), 4, 3, crop=8), 2, batches=5, **keywords(fix)))


@remedy("stream/workers.py", "if memory ran out, give fewer workers or a smaller cache_bytes, or read with workers=0")
def test_a_worker_that_was_killed():
    fix = yield lambda: _read_on(signal.SIGKILL)
    yield lambda: list(
        loader(SequenceDataset(rain(60), 4, 3, crop=8, cache_bytes=20_000), 2, batches=5, **keywords(fix))
    )


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "rain.zarr"
    rain(20).to_dataset().to_zarr(path, zarr_format=3, consolidated=False, encoding={"rain": {"chunks": (1, 24, 20)}})
    return path


@remedy("stream/blocks.py", "write the store again from its source")
def test_a_damaged_chunk(store):
    (store / "rain" / "c" / "7" / "0" / "0").write_bytes(b"damaged")

    def read():
        for _ in loader(SequenceDataset(store, 4, 3, in_memory=False), 2):
            pass

    yield read
    shutil.rmtree(store)
    rain(20).to_dataset().to_zarr(store, zarr_format=3, consolidated=False, encoding={"rain": {"chunks": (1, 24, 20)}})


@remedy("stream/sources.py", "give the address of a Zarr store")
def test_an_address_without_a_store(store):
    yield lambda: SequenceDataset(f"file://{store.parent}/none", 4, 3)
    yield lambda: SequenceDataset(f"file://{store}", 4, 3)


@remedy("stream/sources.py", "open sequences of one grid, cadence and variable together, and others on their own")
def test_sequences_of_different_steps():
    yield lambda: SequenceDataset([rain(), rain(step="10min")], 4, 3)
    yield lambda: [SequenceDataset([rain(), rain(seed=1)], 4, 3), SequenceDataset(rain(step="10min"), 4, 3)]
