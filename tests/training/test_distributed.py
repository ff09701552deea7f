"""Two processes that train together, on CPUs over gloo, against one process with the same batches.

Quick cases fork this process and set the variables that torchrun sets; slow ones are started by torchrun itself.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from sequences import NETWORK, rain
from trials import Each, free_port, log_of, train, weights, with_callback

from sa_nowcast.errors import Interrupted, RecipeError
from sa_nowcast.training.checkpoint import load_checkpoint

TOGETHER: dict[str, Any] = {
    "max_steps": 6,
    "batch_size": 4,
    "validation_samples": 5,  # three validation batches for two processes
    "truth_start": 0.6,
    "truth_decay": 0.05,
    "average": 0.5,
    "log_every": 1,
}


def uneven() -> xr.DataArray:
    """Rain whose pixels are mostly missing in some of the frames, so that processes see unlike numbers of them."""
    data = rain(40)
    rng = np.random.default_rng(0)
    missing = rng.random(data.shape) < rng.choice([0.0, 0.5, 0.95], (40, 1, 1))
    missing[:, 5, 5] = False
    return data.where(~missing)


def together(function: Callable[[int], Any], timeout: float = 120) -> list[Any]:
    """Call `function` with 0 and 1 in two forked processes as torchrun would start them; return what they returned."""
    port, children = free_port(), {}
    for rank in range(2):
        read, write = os.pipe()
        child = os.fork()
        if not child:
            code = 1
            try:
                os.close(read)
                os.environ.update(
                    RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", GROUP_RANK="0",
                    MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_RUN_ID="test", GLOO_SOCKET_IFNAME="lo",
                )  # fmt: skip
                result = pickle.dumps(function(rank))
                with os.fdopen(write, "wb") as out:
                    out.write(result)
                code = 0
            finally:
                os._exit(code)
        os.close(write)
        children[child] = read
    results, deadline = [], time.monotonic() + timeout
    for child, read in children.items():
        with os.fdopen(read, "rb") as pipe:
            os.set_blocking(pipe.fileno(), False)
            content = b""
            while True:
                part = pipe.read()
                if part == b"":
                    break
                content += part or b""
                if time.monotonic() > deadline:
                    for other in children:
                        os.kill(other, signal.SIGKILL)
                    raise AssertionError(f"the processes did not end within {timeout} s")
                time.sleep(0.01)
        _, status = os.waitpid(child, 0)
        assert status == 0, f"status {status}"
        results.append(pickle.loads(content))  # noqa: S301, what our own child wrote
    return results


def _numpy(nowcaster: Any) -> dict[str, Any]:
    return {k: v.numpy() for k, v in weights(nowcaster).items()}


def _alike(one: dict[str, Any], other: dict[str, Any]) -> None:
    for name, value in one.items():
        # A batch's pixels are summed in float32, here as two halves, so gradients differ by roundings; Adam divides a
        # gradient by its own size, so that the rounding error of a tiny one could move its weight by a share of the
        # learning rate. Found: 3e-8, the rounding of one weight. A wrong mean over the pixels does far more: see below.
        np.testing.assert_allclose(value, other[name], rtol=1e-5, atol=2e-6, err_msg=name)


def _distance(one: dict[str, Any], other: dict[str, Any]) -> float:
    return max(float(np.abs(one[k] - other[k]).max()) for k in one)


def test_two_processes_end_with_the_weights_of_one(tmp_path: Path) -> None:
    def run(rank: int) -> Any:
        nowcaster = train(uneven(), folder=tmp_path / "two", **TOGETHER)
        return _numpy(nowcaster), nowcaster.digest, nowcaster.provenance

    one = train(uneven(), folder=tmp_path / "one", **TOGETHER)
    (first, digest, provenance), (second, other_digest, _) = together(run)
    assert digest == other_digest
    assert all(np.array_equal(first[k], second[k]) for k in first)
    _alike(first, _numpy(one))
    assert provenance["best_step"] == one.provenance["best_step"]
    assert provenance["validation_loss"] == pytest.approx(one.provenance["validation_loss"], rel=1e-4)
    # The log is that of all pixels, not of the first process's.
    for ours, theirs in zip(log_of(tmp_path / "two"), log_of(tmp_path / "one"), strict=True):
        assert ours["step"] == theirs["step"]
        for name in ("loss", "learning_rate", "truth_probability"):
            assert float(ours[name]) == pytest.approx(float(theirs[name]), rel=1e-4)
    assert {p.name for p in (tmp_path / "two").iterdir()} == {p.name for p in (tmp_path / "one").iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [4, 8])
def test_the_distribution_is_trained_by_two_processes_as_by_one(batch_size: int) -> None:
    """Of one window of a batch of four, which one process has alone; and of two, one in each."""
    data = uneven() + np.random.default_rng(1).normal(10, 1, (40, 24, 20)).astype(np.float32)  # nothing bounds it
    network = {"name": "convlstm", "hidden": (4,), "kernel": 3, "patch": 4, "output": "moving"}
    given = {"network": network, "distribution": True, "batch_size": batch_size, "max_steps": 3, "validation": 0}

    def run(rank: int) -> Any:
        return _numpy(train(data, **given))

    one, before = run(0), _numpy(train(data, **given | {"distribution": False}))
    first, second = together(run)
    assert all(np.array_equal(first[k], second[k]) for k in first)
    _alike(first, one)
    assert _distance(one, before) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["predrnn-v2", "mcnet"])
def test_what_a_network_adds_to_the_loss_counts_as_in_one_process(name: str) -> None:
    options = {"hidden": (4, 4), "decoupling": 2.0} if name == "predrnn-v2" else {}
    given = {**TOGETHER, "network": {**NETWORK, "name": name, **options}, "max_steps": 3, "validation": 0}

    def run(rank: int) -> Any:
        return _numpy(train(uneven(), **given))

    first, second = together(run)
    assert all(np.array_equal(first[k], second[k]) for k in first)
    _alike(first, run(0))


def test_a_signal_to_one_process_stops_both_at_one_step_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(rank: int) -> Any:
        def before(trainer: Any, *_: Any) -> None:
            if rank == 1 and trainer.global_step == 2:
                os.kill(os.getpid(), signal.SIGTERM)

        with_callback(monkeypatch, Each(before=before))
        try:
            train(uneven(), folder=tmp_path / "run", **TOGETHER)
        except Interrupted as error:
            return error.exit_code, error.found
        return None

    def resumed(rank: int) -> Any:
        return _numpy(train(uneven(), folder=tmp_path / "run", **TOGETHER))

    def unbroken(rank: int) -> Any:
        return _numpy(train(uneven(), **TOGETHER))

    ends = together(stopped)
    assert [code for code, _ in ends] == [75, 75]
    assert all(found.startswith("SIGTERM at step 3 of 6") for _, found in ends)
    assert load_checkpoint(tmp_path / "run" / "last.ckpt")["global_step"] == 3
    (went_on, other), (whole, _) = together(resumed), together(unbroken)
    for name in whole:
        assert np.array_equal(went_on[name], whole[name])
        assert np.array_equal(other[name], whole[name])


def test_a_signal_to_one_process_within_a_validation_is_agreed_on_and_the_validation_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sa_nowcast.models.rollout import Network

    def stopped(rank: int) -> Any:
        forward, count = Network.forward, [0]

        def spy(network: Network, *args: Any, **options: Any) -> torch.Tensor:
            count[0] += not network.training
            if rank == 1 and count[0] == 2:  # its one batch of the second validation
                os.kill(os.getpid(), signal.SIGUSR1)
            return forward(network, *args, **options)

        monkeypatch.setattr(Network, "forward", spy)
        try:
            train(uneven(), folder=tmp_path / "run", **TOGETHER)
        except Interrupted as error:
            return error.found
        return None

    def resumed(rank: int) -> Any:
        nowcaster = train(uneven(), folder=tmp_path / "run", **TOGETHER)
        return nowcaster.digest, nowcaster.provenance

    def unbroken(rank: int) -> Any:
        nowcaster = train(uneven(), folder=tmp_path / "whole", **TOGETHER)
        return nowcaster.digest, nowcaster.provenance

    assert all(found.startswith("SIGUSR1 at step 4 of 6") for found in together(stopped))
    assert load_checkpoint(tmp_path / "run" / "last.ckpt")["callbacks"]["Validation"]["validated"] == 2
    assert together(resumed) == together(unbroken)
    assert log_of(tmp_path / "run") == log_of(tmp_path / "whole")
    # And what is finished is given back, by both and without a group of processes.
    assert together(resumed) == together(unbroken)


def test_a_loss_that_is_not_finite_in_one_process_stops_both(monkeypatch: pytest.MonkeyPatch) -> None:
    from sa_nowcast.errors import ModelError

    def run(rank: int) -> str:
        def before(trainer: Any, module: Any, batch: Any) -> None:
            if rank == 1 and trainer.global_step == 2:
                batch.fill_(3e38)

        with_callback(monkeypatch, Each(before=before))
        try:
            train(uneven(), scaling="standard", **TOGETHER)
        except ModelError as error:
            return str(error)
        return ""

    first, second = together(run)
    assert "training, step 2: the loss is" in first
    assert "in another process" in first
    assert "windows: 2020-06-01T" in second


def test_a_batch_that_does_not_divide_among_the_processes_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GROUP_RANK", "0")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    with pytest.raises(RecipeError, match=r"training\.batch_size: 3 over 2 processes, expected a multiple of 2") as e:
        train(batch_size=3)
    assert "\n" not in str(e.value)
    with pytest.raises(RecipeError, match=r"training\.device: 'cuda:0' for 2 processes, expected auto, cpu or cuda"):
        train(device="cuda:0")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(RecipeError, match=r"training: 2 processes, 3 on this machine, expected the same number"):
        train()


# --- started by torchrun


SCRIPT = """
import os, pickle, signal, sys
import lightning as L
import torch
torch.set_num_threads(1)
from sa_nowcast import fit
from sa_nowcast.errors import Interrupted
from sequences import NETWORK
from test_distributed import TOGETHER, uneven
from trials import LONG
import sa_nowcast.training.engine as engine

def main(folder, stop):
    if stop and os.environ["RANK"] == "1":
        class Stop(L.Callback):
            def on_train_batch_start(self, trainer, *args):
                if trainer.global_step == 2:
                    os.kill(os.getpid(), signal.SIGTERM)
        trainer = L.Trainer
        engine.L.Trainer = lambda **o: trainer(**{**o, "callbacks": [*o["callbacks"], Stop()]})
    options = {**LONG, **TOGETHER, "workers": int(sys.argv[3])}
    try:
        n = fit(uneven(), history=4, steps=3, network=NETWORK, progress=False, folder=folder, **options)
        result = {k: v.numpy() for k, v in n.network.state_dict().items()}
    except Interrupted as error:
        result = (error.exit_code, error.found)
    with open(os.path.join(sys.argv[4], "rank" + os.environ["RANK"]), "wb") as out:
        pickle.dump(result, out)

if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] == "stop")
"""


def torchrun(tmp_path: Path, folder: Path, stop: bool = False, workers: int = 0) -> list[Any]:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    tests = Path(__file__).parent
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1",
            "--master-port", str(free_port()), str(script), str(folder), "stop" if stop else "on", str(workers),
            str(tmp_path),
        ],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent), os.environ.get("PYTHONPATH", "")]),
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": "lo",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [pickle.loads((tmp_path / f"rank{rank}").read_bytes()) for rank in range(2)]  # noqa: S301


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_torchrun_trains_stops_and_goes_on_to_the_weights_of_one_process(tmp_path: Path, workers: int) -> None:
    folder = tmp_path / "run"
    stopped = torchrun(tmp_path, folder, stop=True, workers=workers)
    assert [code for code, _ in stopped] == [75, 75]
    assert all(found.startswith("SIGTERM at step 3 of 6") for _, found in stopped)
    first, second = torchrun(tmp_path, folder, workers=workers)
    assert all(np.array_equal(first[k], second[k]) for k in first)
    _alike(first, _numpy(train(uneven(), **TOGETHER)))
    assert sorted(p.name for p in folder.iterdir()) == ["last.ckpt", "previous.ckpt", "training.csv"]


def test_the_tolerance_tells_other_means_over_pixels_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were each process to divide by its own pixels, the weights would be further away than the tolerance."""
    right = _numpy(train(uneven(), **TOGETHER))
    import sa_nowcast.training.module as module

    sums = module.loss_sums

    def by_halves(prediction: Any, target: Any, valid: Any, *rest: Any) -> Any:
        parts = [sums(prediction[r::2], target[r::2], valid[r::2], *rest) for r in range(2)]
        count = parts[0][1] + parts[1][1]
        return sum(total / pixels.clamp(min=1) for total, pixels in parts) / 2 * count, count

    monkeypatch.setattr(module, "loss_sums", by_halves)
    assert _distance(_numpy(train(uneven(), **TOGETHER)), right) > 2e-4
