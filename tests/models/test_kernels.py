"""A kernel's gradient from many steps at once is torch's, whatever is asked of autograd; layouts change no forecast."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sa_nowcast import models
from sa_nowcast.models import kernels

SIZES = [
    (2, 5, 4),
    (3, 5, 4),
    (1, 40, 70),
    (2, 64, 64),
    (2, 5, 4),
]  # samples, rows, columns; the fourth is not gathered


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def plain(x: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.conv2d(x, kernel, bias, padding=kernel.shape[-1] // 2)


def of_steps(convolve, kernel: Tensor, bias: Tensor | None = None, start: Tensor | None = None) -> Tensor:
    """A sum over maps of several sizes, each convolved twice."""
    total = torch.zeros((), dtype=torch.float64)
    for n, (samples, rows, columns) in enumerate(SIZES):
        x = random(samples, kernel.shape[1], rows, columns)
        x = x if start is None or n else x + start
        total = total + convolve(convolve(x, kernel, bias).tanh(), kernel, bias).square().mean()
    return total


def parameters() -> tuple[Tensor, Tensor, Tensor]:
    """A kernel, a bias, and the first of the maps."""
    kernel, bias, start = random(3, 3, 5, 5), random(3), random(2, 3, 5, 4)
    return kernel.requires_grad_(), bias.requires_grad_(), start.requires_grad_()


def same(got, wanted) -> None:
    torch.testing.assert_close(got, wanted, rtol=1e-11, atol=1e-12)


def both(biased: bool = True) -> list[tuple[Tensor, tuple[Tensor, ...]]]:
    """The sum and what it was computed from: gathered, and by torch alone."""
    results = []
    for convolve, prepare in ((kernels.convolved, kernels.gathered), (plain, lambda kernel: kernel)):
        kernel, bias, start = parameters()
        y = of_steps(convolve, prepare(kernel), bias if biased else None, start)
        results.append((y, (kernel, bias, start) if biased else (kernel, start)))
    return results


def nodes(y: Tensor) -> set[str]:
    found, left = set(), [y.grad_fn]
    while left:
        node = left.pop()
        found.add(type(node).__name__)
        left += [following for following, _ in node.next_functions if following is not None]
    return found


@pytest.mark.parametrize("biased", [True, False])
def test_gradients_are_torchs(biased):
    (y, given), (other, theirs) = both(biased)
    assert "_ConvolutionBackward" in nodes(y)
    same(y, other)
    same(torch.autograd.grad(y, given), torch.autograd.grad(other, theirs))


def test_the_kernels_gradient_is_of_all_steps_so_far_at_once(monkeypatch):
    counts = []
    compute = kernels._gradients

    def counted(x, grad, kernel, of_x, of_kernel):
        counts.append((len(x), of_x, of_kernel))
        return compute(x, grad, kernel, of_x, of_kernel)

    monkeypatch.setattr(kernels, "_gradients", counted)
    kernel = parameters()[0]
    held, h = kernels.gathered(kernel), random(2, 3, 16, 16)
    for _ in range(11):
        h = kernels.convolved(h, held).tanh()
    h.sum().backward()
    assert [count for count in counts if count[2]] == [(16, False, True), (6, False, True)]
    assert kernels.MOST_POSITIONS == 16 * 16 * 16


def test_gradients_add_up_over_backward_passes():
    kernel, bias, start = parameters()
    for _ in range(2):
        of_steps(kernels.convolved, kernels.gathered(kernel), bias, start).backward()
    other, theirs = both()[1]
    for got, wanted in zip((kernel, bias, start), torch.autograd.grad(other, theirs), strict=True):
        same(got.grad, 2 * wanted)


def test_each_pass_through_a_graph_has_its_own_sum_and_leaves_nothing():
    kernel, bias, start = parameters()
    held = kernels.gathered(kernel)
    y = of_steps(kernels.convolved, held, bias, start)
    other, theirs = both()[1]
    wanted = torch.autograd.grad(other, theirs)
    for _ in range(2):
        (of_start,) = torch.autograd.grad(y, start, retain_graph=True)  # the kernel's turn never comes
        same(of_start, wanted[2])
        same(torch.autograd.grad(y, kernel, retain_graph=True)[0], wanted[0])
        assert held.grad_fn.sums == {}


def test_gradients_of_gradients_are_torchs():
    results = []
    for y, given in both():
        first = torch.autograd.grad(y, given, create_graph=True)
        results.append(torch.autograd.grad(sum(one.square().sum() for one in first), given))
    same(*results)


def test_a_frozen_kernel_is_as_it_is():
    kernel, bias, start = parameters()
    kernel.requires_grad_(False)
    held = kernels.gathered(kernel)
    assert held is kernel
    of_steps(kernels.convolved, held, bias, start).backward()
    other, theirs = both()[1]
    wanted = torch.autograd.grad(other, theirs)
    assert kernel.grad is None
    same([bias.grad, start.grad], list(wanted[1:]))


def test_without_gradients_nothing_is_gathered():
    kernel = parameters()[0]
    with torch.no_grad():
        assert kernels.gathered(kernel) is kernel
    held = kernels.gathered(kernel)
    with torch.no_grad():
        assert kernels.convolved(random(1, 3, 4, 4), held).grad_fn is None


def test_what_is_recomputed_is_gathered_too():
    kernel, bias, start = parameters()
    held = kernels.gathered(kernel)
    checkpoint(lambda x: of_steps(kernels.convolved, held, bias, x), start, use_reentrant=False).backward()
    other, theirs = both()[1]
    same([kernel.grad, bias.grad, start.grad], list(torch.autograd.grad(other, theirs)))


def test_functional_transforms_see_torchs_convolution():
    kernel, bias, start = (one.detach() for one in parameters())
    got = torch.func.grad(lambda k: of_steps(kernels.convolved, kernels.gathered(k), bias, start))(kernel)
    other, theirs = both()[1]
    same(got, torch.autograd.grad(other, theirs)[0])


@pytest.mark.parametrize("name", ["sa-convlstm", "convlstm", "predrnn", "frnn"])
def test_a_network_trains_and_is_copied_as_without(name, monkeypatch):
    """Gradients of weights within 1e-5 of the greatest, in float32, in either layout of memory."""
    x, results = torch.rand(2, 6, 1, 24, 20), []
    for first, gather in ((False, False), (False, True), (True, True)):
        monkeypatch.setattr(kernels, "CHANNELS_FIRST", first)
        if not gather:
            monkeypatch.setattr(kernels, "gathered", lambda kernel: kernel)
            monkeypatch.setattr("sa_nowcast.models.maps.gathered", lambda kernel: kernel)
        torch.manual_seed(0)
        net = models.build(models.preset(name=name, channels=1, hidden=(6, 6), kernel=3, patch=2))
        out = net.predict_all(x, history=3)
        out.square().sum().backward()
        results.append((net, out))
        copy.deepcopy(net)
        monkeypatch.undo()
    (plainest, out), *others = results
    for net, y in others:
        torch.testing.assert_close(y, out, rtol=0, atol=2e-6)
        for got, wanted in zip(net.parameters(), plainest.parameters(), strict=True):
            torch.testing.assert_close(got.grad, wanted.grad, rtol=0, atol=1e-5 * float(wanted.grad.abs().max()) + 1e-9)


def test_a_network_of_several_processes_gets_every_gradient():
    """One process of one: what torch hangs on the weights' gradients is called once a backward pass."""
    x = torch.rand(2, 4, 1, 8, 8)
    torch.manual_seed(0)
    net = models.build(models.preset(name="sa-convlstm", channels=1, hidden=(4, 4), kernel=3, patch=2))
    wanted = torch.autograd.grad(net(x, 3).square().sum(), list(net.parameters()))
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        shared = torch.nn.parallel.DistributedDataParallel(net)
        for _ in range(2):
            net.zero_grad()
            shared(x, 3).square().sum().backward()
    finally:
        torch.distributed.destroy_process_group()
    for parameter, gradient in zip(net.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 2, 1, 7)])
def test_a_map_is_laid_out_as_another_with_the_same_values(shape):
    x = random(*shape)
    like = random(*shape).contiguous(memory_format=torch.channels_last)
    y = kernels.laid_out(x, like)
    assert y.stride() == like.stride()
    assert torch.equal(x, y)
    assert kernels.laid_out(x, x) is x
