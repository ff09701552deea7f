"""SA-ConvLSTM's training step on the CPU against a plain ConvLSTM, and against its own attention written out.

Run with ``pytest -m benchmark -s tests/benchmarks/training_step.py``; some minutes on an idle core. One thread,
processor time, float32, hidden 64 x 4 layers, kernel 5, patch 4, Adam. Maps of 16 x 16 are MovingMNIST's frames.
``BATCH``, ``FRAMES`` and ``ROUNDS`` choose other sizes of that task than 8, 10 (to as many) and 5.

The plain ConvLSTM is written here from the equations, with the settings that OpenSTL's has for MovingMNIST (Tan et al.
2023, arXiv:2306.11249; configs/mmnist/ConvLSTM.py): channels first, input and hidden state convolved apart, the hidden
state of zeros too, no peepholes, no biases, one frame and one layer at a time, no layer norm. With one after each
convolution, over channels and positions, which is that code's option, it is more like our ConvLSTM. OpenSTL itself is
not run.

`sa_nowcast.models.blockwise` is compared with what torch does by itself, too.

Cases take turns; a ratio is the median over rounds of the ratio within a round.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

import pytest
import torch
from networks import HIDDEN, KERNEL, LAYERS, PATCH, WRITTEN_OUT, Task, prepare
from torch import Tensor, nn

from sa_nowcast.models import blockwise

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(7200)]

BATCH, FRAMES, ROUNDS = (int(os.environ.get(k, d)) for k, d in (("BATCH", "8"), ("FRAMES", "10"), ("ROUNDS", "5")))
PLAIN, NORMED = "plain convlstm", "plain convlstm, layer norm"
TORCHS = "sa-convlstm, torch's attention"
WANTED_16, WANTED_64 = 1.30, 0.55


class PlainCell(nn.Module):
    def __init__(self, inputs: int, size: int, norm: bool) -> None:
        super().__init__()
        self.of_input, self.of_hidden = (self._convolution(channels, size, norm) for channels in (inputs, HIDDEN))

    @staticmethod
    def _convolution(inputs: int, size: int, norm: bool) -> nn.Module:
        convolution = nn.Conv2d(inputs, 4 * HIDDEN, KERNEL, padding=KERNEL // 2, bias=False)
        return nn.Sequential(convolution, nn.LayerNorm([4 * HIDDEN, size, size])) if norm else convolution

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        i, f, g, o = (self.of_input(x) + self.of_hidden(h)).chunk(4, dim=1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


class PlainConvLSTM(nn.Module):
    def __init__(self, task: Task, norm: bool) -> None:
        super().__init__()
        self.history = task.history
        inputs = [PATCH**2, *[HIDDEN] * (LAYERS - 1)]
        self.cells = nn.ModuleList(PlainCell(channels, task.size, norm) for channels in inputs)
        self.head = nn.Conv2d(HIDDEN, PATCH**2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the predictions of frames 1 to T - 1, (B, T - 1, C, H, W), from frames and then predictions."""
        patches = nn.functional.pixel_unshuffle(x, PATCH)
        zeros = patches.new_zeros(x.shape[0], HIDDEN, *patches.shape[-2:])
        state = [(zeros, zeros)] * LAYERS
        predictions: list[Tensor] = []
        for t in range(x.shape[1] - 1):
            y = patches[:, t] if t < self.history else predictions[-1]
            for layer, cell in enumerate(self.cells):
                state[layer] = cell(y, *state[layer])
                y = state[layer][0]
            predictions.append(self.head(y))
        return nn.functional.pixel_shuffle(torch.stack(predictions, 1), PATCH)


def plain(task: Task, norm: bool) -> Callable[[], float]:
    torch.manual_seed(0)
    net = PlainConvLSTM(task, norm)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3, fused=True)
    x = torch.rand(task.batch, task.history + task.steps, 1, PATCH * task.size, PATCH * task.size)

    def train() -> float:
        optimizer.zero_grad()
        loss = (net(x) - x[:, 1:]).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.item()

    return train


def by_torch(step: Callable[[], float]) -> Callable[[], float]:
    """Return the step without what `sa_nowcast.models.blockwise` does otherwise than torch."""

    def train() -> float:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(blockwise, "_is_faster", lambda: False)
            return step()

    return train


def seconds(cases: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    torch.set_num_threads(1)
    taken: dict[str, list[float]] = {name: [] for name in cases}
    for repetition in range(ROUNDS + 1):
        for name, step in cases.items():
            begun = time.process_time()
            step()
            if repetition:  # the first loads and allocates
                taken[name].append(time.process_time() - begun)
    return taken


def compared(task: Task, cases: dict[str, Callable[[], float]], case: str, other: str, wanted: float) -> float:
    taken = seconds(cases)
    print(
        f"\n{task.size} x {task.size} maps, batch {task.batch}, {task.history} to {task.steps} frames, {ROUNDS} rounds"
    )
    ratios = {name: statistics.median(a / b for a, b in zip(taken[name], taken[other], strict=True)) for name in cases}
    for name, times in taken.items():
        print(f"  {name:28s} {statistics.median(times):7.3f} s of one core, {ratios[name]:5.2f} of {other}")
    print(f"  wanted: {case} at most {wanted}: {'reached' if ratios[case] <= wanted else 'missed'}")
    return ratios[case]


def test_sa_convlstm_beside_a_plain_convlstm() -> None:
    task = Task(16, BATCH, FRAMES, FRAMES)
    cases = {name: prepare(name, task)[0] for name in ("sa-convlstm", "convlstm")}
    cases |= {PLAIN: plain(task, norm=False), NORMED: plain(task, norm=True)}
    # 1.30 is wanted; what is asserted is that it is not lost what was reached.
    assert compared(task, cases, "sa-convlstm", PLAIN, WANTED_16) <= 2.0


def test_fused_attention_beside_attention_written_out() -> None:
    task = Task(64, 1, 3, 3)
    cases = {name: prepare(name, task)[0] for name in ("sa-convlstm", WRITTEN_OUT)}
    cases |= {TORCHS: by_torch(prepare("sa-convlstm", task)[0])}
    assert compared(task, cases, "sa-convlstm", WRITTEN_OUT, WANTED_64) <= 0.8
