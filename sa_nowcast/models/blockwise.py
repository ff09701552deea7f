"""Attention over large maps on the CPU, in blocks of positions whose products are oneDNN's.

torch multiplies float32 matrices by MKL, which on processors that are not Intel's leaves half of what AVX-512 could do
(100 of 240 billion operations a second of a core of an EPYC, docs/log.md), and its fused attention is made of such
products. Its convolutions are oneDNN's, and run at the higher rate.
"""

from __future__ import annotations

import functools
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_LEAST_SCORES: Final = 2**20  # of a map: below, torch's fused kernel is as fast
_ROWS: Final = 128  # positions whose scores are in the cache at once
_MOST_THREADS: Final = 4  # that share a product of a block; torch's kernel shares positions and samples


def attend(query: Tensor, keys: Tensor) -> Tensor:
    """Return softmax(Q Kᵀ) K without ever holding all scores; Q is (B, heads, N, C), K (B, heads, M, C)."""
    if _in_blocks(query, keys):
        read: Tensor = _Attention.apply(query, keys)  # type: ignore[no-untyped-call]
    elif query.is_meta:  # where only memory is counted, the fused kernel has to be named
        read = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, keys, keys, scale=1.0)[0]
    else:
        read = F.scaled_dot_product_attention(query, keys, keys, scale=1.0)
    return read


def _in_blocks(query: Tensor, keys: Tensor) -> bool:
    return (
        query.shape[-2] * keys.shape[-2] >= _LEAST_SCORES
        and all(one.device.type == "cpu" and one.dtype == torch.float32 for one in (query, keys))
        and not torch.compiler.is_compiling()
        and torch.get_num_threads() <= _MOST_THREADS
        and bool(torch.backends.mkldnn.enabled)
        and _is_faster()
    )


@functools.cache
def _is_faster() -> bool:
    there = torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return there and torch.backends.cpu.get_cpu_capability() == "AVX512"


def _times_transposed(x: Tensor, w: Tensor, shift: Tensor | None = None) -> Tensor:
    """Return x @ w.T + shift, for x (N, K), w (O, K), each contiguous or transposed, and shift (O,).

    With gaps between rows, as in a slice of columns, it would take a thousand times as long.
    """
    y: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, w, shift, "none", [], "")
    return y


class _Attention(torch.autograd.Function):
    """`attend` in blocks of positions; scores are computed again for the backward pass, as in Dao et al. (2022).

    Of the scores only the logarithm of the sum of their exponentials is kept, one for each position. The backward pass
    holds blocks transposed: what is subtracted from each position's scores then is the shift of a product.
    (FlashAttention, arXiv:2205.14135.)
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, keys: Tensor) -> Tensor:
        """Compute what is read."""
        queries, all_keys = query.flatten(0, 1).contiguous(), keys.flatten(0, 1).contiguous()
        read, sums = torch.empty_like(queries), queries.new_empty(queries.shape[:2])
        for q, k, z, total in zip(queries, all_keys, read, sums, strict=True):
            turned = k.T.contiguous()
            for part in map(slice, *_bounds(len(q))):
                scores = _times_transposed(q[part], k)
                shares = scores.softmax(-1)
                z[part] = _times_transposed(shares, turned)
                torch.sub(scores.amax(-1), shares.amax(-1).log_(), out=total[part])
        ctx.save_for_backward(queries, all_keys, read, sums)
        return read.view_as(query)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the gradients; keys are values too, and get those of both."""
        queries, all_keys, read, sums = ctx.saved_tensors
        grads = grad.flatten(0, 1).contiguous()
        inner, sums = (grads * read).sum(-1).neg_(), sums.neg()
        of_queries, of_keys = torch.empty_like(queries), torch.zeros_like(all_keys)
        for n, (q, k, g) in enumerate(zip(queries, all_keys, grads, strict=True)):
            turned = k.T.contiguous()
            for part in map(slice, *_bounds(len(q))):
                shares = _times_transposed(k, q[part], sums[n, part]).exp_()
                of_scores = _times_transposed(k, g[part], inner[n, part]).mul_(shares)
                of_keys[n] += _times_transposed(shares, g[part].T)
                of_keys[n] += _times_transposed(of_scores, q[part].T)
                of_queries[n, part] = _times_transposed(turned, of_scores.T).T
        of_query = of_queries.view(grad.shape)
        return of_query, of_keys.view(*grad.shape[:2], *all_keys.shape[1:])


def _bounds(count: int) -> tuple[range, range]:
    return range(0, count, _ROWS), range(_ROWS, count + _ROWS, _ROWS)
