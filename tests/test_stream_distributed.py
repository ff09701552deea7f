"""Two processes of a real process group (gloo): each loads its own share, and all shares together are everything."""

from __future__ import annotations

import multiprocessing as mp
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from sequences import rain

from sa_nowcast.sources import MovingMnist
from sa_nowcast.stream import SequenceDataset, SyntheticSamples, loader

RANKS = 2
WINDOWS = 35  # odd, so that the shares differ by one


def _dataset(path: Path) -> SequenceDataset:
    return SequenceDataset(path, 4, 2, in_memory=False, cache_bytes=20_000, seed=5)


def _digits(folder: Path) -> SyntheticSamples:
    return SyntheticSamples(MovingMnist(folder, seed=2, size=28, length=3, check_hash=False), epoch=11)


def _load_share(rank: int, folder: Path) -> None:
    """What one process does: join the group, load what the loader gives it, and say so."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=RANKS)
    windows, digits = _dataset(folder / "rain.zarr"), _digits(folder)
    epoch = torch.cat(list(loader(windows, 4)))
    steps = torch.stack(list(loader(windows, 3, batches=9, first=2)))
    made = torch.cat(list(loader(digits, 4)))
    count = torch.tensor([len(epoch)])
    torch.distributed.all_reduce(count)  # both processes are in one group
    np.savez(folder / f"rank{rank}.npz", epoch=epoch, steps=steps, made=made, count=count)
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_load_every_window_once_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoding = {"rain": {"chunks": (1, 24, 20), "shards": (8, 24, 20), "compressors": zarr.codecs.ZstdCodec()}}
    rain(40).to_dataset().to_zarr(tmp_path / "rain.zarr", zarr_format=3, consolidated=False, encoding=encoding)
    images = np.random.default_rng(0).integers(1, 256, (9, 28, 28), dtype=np.uint8)
    header = b"\0\0\x08\x03" + struct.pack(">3I", *images.shape)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(header + images.tobytes())
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")  # 127.0.0.1, whatever the machine is called
    context = mp.get_context("spawn")
    processes = [context.Process(target=_load_share, args=(rank, tmp_path)) for rank in range(RANKS)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        if process.is_alive():
            process.kill()
    assert [p.exitcode for p in processes] == [0] * RANKS
    shares = [dict(np.load(tmp_path / f"rank{rank}.npz")) for rank in range(RANKS)]

    windows = _dataset(tmp_path / "rain.zarr")
    assert len(windows) == WINDOWS
    assert not torch.distributed.is_initialized()
    alone = torch.cat(list(loader(windows, 4))).numpy()
    run = torch.stack(list(loader(windows, 3 * RANKS, batches=9, first=2))).numpy()
    made = torch.cat(list(loader(_digits(tmp_path), 4))).numpy()
    for rank, share in enumerate(shares):
        np.testing.assert_array_equal(share["epoch"], alone[rank::RANKS])
        np.testing.assert_array_equal(share["made"], made[rank::RANKS])
        np.testing.assert_array_equal(share["steps"], run[:, rank::RANKS])
        assert share["count"].tolist() == [WINDOWS]
    assert sorted(windows.window(k).start for k in range(WINDOWS)) == list(range(WINDOWS))
    together = np.concatenate([share["epoch"] for share in shares])
    assert len({x.tobytes() for x in together}) == len(together) == WINDOWS
