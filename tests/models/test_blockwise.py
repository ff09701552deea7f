"""Attention in blocks is attention, with its gradients; where it is not faster, torch's runs."""

from __future__ import annotations

import pytest
import torch

from sa_nowcast.models import blockwise

by_onednn = pytest.mark.skipif(
    not blockwise._is_faster(), reason="a processor without AVX-512, or torch without oneDNN"
)


@pytest.fixture(autouse=True)
def _whatever_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blockwise, "_LEAST_SCORES", 0)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), requires_grad=True)


def in_float64(function, *tensors):
    """The values and gradients of the same function in float64, for a given gradient of what it returns."""
    wide = [one.detach().double().requires_grad_() for one in tensors]
    y = function(*wide)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    return grad, y, torch.autograd.grad(y, wide, grad.double())


@by_onednn
@pytest.mark.parametrize(("positions", "keys"), [(1, 1), (127, 60), (128, 64), (300, 300)])
def test_attention_is_that_of_float64(positions, keys):
    q, k = random(2, 3, positions, 16), random(2, 3, keys, 16)
    grad, wanted, gradients = in_float64(lambda q, k: (q @ k.mT).softmax(-1) @ k, q, k)
    y = blockwise.attend(q, k)
    assert type(y.grad_fn).__name__ == "_AttentionBackward"
    torch.testing.assert_close(y.double(), wanted, rtol=0, atol=1e-5)
    for got, one in zip(torch.autograd.grad(y, (q, k), grad), gradients, strict=True):
        torch.testing.assert_close(got.double(), one, rtol=1e-5, atol=5e-5)


@by_onednn
def test_attention_of_large_scores_stays_finite():
    q, k = 1e3 * random(1, 1, 130, 8), 1e3 * random(1, 1, 40, 8)
    y = blockwise.attend(q, k)
    torch.testing.assert_close(y, (q @ k.mT).softmax(-1) @ k)
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(y.sum(), (q, k)))


@by_onednn
def test_a_map_whose_rows_have_gaps_is_read_as_it_is():
    wide = random(2, 2, 40, 32)
    q, k = wide[..., :16], wide[..., 16:]
    torch.testing.assert_close(blockwise.attend(q, k), (q @ k.mT).softmax(-1) @ k)


@by_onednn
@pytest.mark.parametrize("case", ["float64", "small", "no oneDNN", "meta"])
def test_anything_else_is_torchs_attention(case, monkeypatch):
    q, k = random(1, 1, 4, 8), random(1, 1, 4, 8)
    assert type(blockwise.attend(q, k).grad_fn).__name__ == "_AttentionBackward"
    if case == "small":
        monkeypatch.setattr(blockwise, "_LEAST_SCORES", 17)
    if case == "float64":
        q, k = q.double(), k.double()
    if case == "meta":
        q, k = q.to("meta"), k.to("meta")
    with torch.backends.mkldnn.flags(enabled=case != "no oneDNN", allow_tf32=None):
        y = blockwise.attend(q, k)
    assert type(y.grad_fn).__name__.startswith("ScaledDotProduct")
    assert y.dtype == q.dtype
