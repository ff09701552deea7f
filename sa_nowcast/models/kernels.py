"""Convolutions of maps on a processor: the layout in memory that is fastest, and gradients of kernels over many steps.

A recurrent network convolves a few maps at every step with the same kernel, so that its gradient is a sum over steps of
small products. From all steps at once it takes less time: what was convolved and the gradient of what it gave are
gathered in the backward pass, and the kernel's own part of that pass, which autograd runs when no more will come, makes
its gradient of them.
"""

from __future__ import annotations

from typing import Any, Final, cast

import torch
import torch.nn.functional as F
from torch import Tensor

CHANNELS_FIRST: Final = torch.backends.cpu.get_cpu_capability() == "AVX2" and torch._C._has_mkldnn
"""Whether oneDNN convolves faster with channels first: on processors without AVX-512, by a fifth (docs/log.md)."""
MOST_POSITIONS: Final = 2**12
"""Positions of which a kernel's gradient is computed at once, at most: more are no faster, and are held meanwhile."""


def in_layout(x_NCHW: Tensor) -> Tensor:
    """Return maps or a kernel in the layout of memory in which convolutions are to read them."""
    eager = not torch.compiler.is_compiling()
    if CHANNELS_FIRST and eager and x_NCHW.device.type == "cpu" and x_NCHW.dtype == torch.float32:
        return x_NCHW.contiguous()
    return x_NCHW.contiguous(memory_format=torch.channels_last)


def laid_out(x: Tensor, like: Tensor) -> Tensor:
    """Return x in the layout of memory of another of its shape, so that both are read in the same order."""
    return x if x.stride() == like.stride() else torch.empty_like(like).copy_(x)


def gathered(kernel: Tensor) -> Tensor:
    """Return a kernel for many steps, whose gradient is computed from many at once where that may be faster."""
    trained = kernel.requires_grad and torch.is_grad_enabled()
    wide = kernel.device.type == "cpu" and kernel.dtype in (torch.float32, torch.float64)
    if not (trained and wide) or torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return kernel
    held: Tensor = _Gathered.apply(kernel)  # type: ignore[no-untyped-call]
    return held


def convolved(x_NCHW: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve maps with an odd kernel and zeros around them, so that the size stays."""
    if torch.is_grad_enabled() and not torch.compiler.is_compiling() and hasattr(kernel.grad_fn, "sums"):
        y: Tensor = _Convolution.apply(x_NCHW, kernel, bias)  # type: ignore[no-untyped-call]
        return y
    return F.conv2d(in_layout(x_NCHW), kernel, bias, padding=kernel.shape[-1] // 2)


class _Sum:
    """The gradient of a kernel in one backward pass."""

    def __init__(self) -> None:
        self.pairs: list[tuple[Tensor, Tensor]] = []
        self.total: Tensor | None = None

    def add(self, x: Tensor, grad: Tensor, kernel: Tensor) -> None:
        """Add the part of one step."""
        if self.pairs and self.pairs[0][0].shape[1:] != x.shape[1:]:
            self.compute(kernel)
        self.pairs.append((x, grad))
        if sum(_positions(x) for x, _ in self.pairs) >= MOST_POSITIONS:
            self.compute(kernel)

    def compute(self, kernel: Tensor) -> Tensor | None:
        """Return the gradient of all steps so far."""
        if self.pairs:
            x, grad = (one[0] if len(one) == 1 else torch.cat(one) for one in zip(*self.pairs, strict=True))
            self.pairs = []
            part = _gradients(x, grad, kernel, False, True)[1]
            self.total = part if self.total is None else self.total.add_(part)
        return self.total


class _Gathered(torch.autograd.Function):
    """A kernel that steps share; its gradient is the sum of theirs, of which there is one for each backward pass."""

    @staticmethod
    def forward(ctx: Any, kernel: Tensor) -> Tensor:
        """Return the kernel."""
        ctx.sums = {}
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(kernel)
        return kernel.view_as(kernel)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Tensor | None:
        """Compute the gradient of what was gathered; `grad` is of what was not."""
        of_pass = ctx.sums.pop(torch._C._current_graph_task_id(), None)
        if of_pass is None:
            return grad
        total: Tensor = of_pass.compute(*ctx.saved_tensors)
        return total if grad is None else total + grad


class _Convolution(torch.autograd.Function):
    """A convolution whose kernel's gradient is gathered."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
        """Compute what it gives."""
        ctx.save_for_backward(x, kernel)
        ctx.sums, ctx.biased = kernel.grad_fn.sums, bias is not None  # type: ignore[union-attr]
        return F.conv2d(in_layout(x), kernel, bias, padding=kernel.shape[-1] // 2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Compute the input's gradient, and leave the kernel's to be gathered."""
        given, kernel = ctx.saved_tensors
        x = in_layout(given)
        of_kernel = torch._C._will_engine_execute_node(ctx.next_functions[1][0])
        # A backward pass that is differentiated itself has to hand on what it computes.
        at_once = torch.is_grad_enabled() or _positions(x) >= MOST_POSITIONS
        of_x, of_k = _gradients(x, grad, kernel, ctx.needs_input_grad[0], of_kernel and at_once)
        if of_kernel and not at_once:
            ctx.sums.setdefault(torch._C._current_graph_task_id(), _Sum()).add(x, grad, kernel)
        if of_x is not None and not torch.is_grad_enabled():
            of_x = laid_out(of_x, given)
        return of_x, of_k, grad.sum((0, 2, 3)) if ctx.biased else None


def _positions(x_NCHW: Tensor) -> int:
    return x_NCHW.shape[0] * x_NCHW.shape[2] * x_NCHW.shape[3]


def _gradients(x: Tensor, grad: Tensor, kernel: Tensor, of_x: bool, of_kernel: bool) -> tuple[Any, Any]:
    """Return the gradients of maps and of a kernel, as far as they are asked for."""
    if not (of_x or of_kernel):
        return None, None
    sides, ones = [kernel.shape[-1] // 2] * 2, [1, 1]
    backward = torch.ops.aten.convolution_backward
    of_both = backward(grad, x, kernel, None, ones, sides, ones, False, [0, 0], 1, [of_x, of_kernel, False])
    return cast("tuple[Any, Any]", of_both[:2])
