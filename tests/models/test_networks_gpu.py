"""What needs a CUDA device; run with ``pytest -m gpu tests/models`` where there is one."""

import copy

import pytest
import torch
from listed import OPTIONS, tiny
from torch.nn.attention import SDPBackend, sdpa_kernel

from sa_nowcast import models

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="no CUDA device; run `pytest -m gpu tests/models` where there is one"
    ),
]


def made(name="sa-convlstm"):
    torch.manual_seed(0)
    return models.build(name, channels=1, hidden=(16, 16), kernel=3, patch=2)


@pytest.mark.parametrize("name", models.NAMES)
def test_cuda_predicts_as_the_cpu_does(name):
    """1e-4: convolutions in float32 without TF32, in another order, through six steps."""
    net, x = tiny(name, channels=1) if name in OPTIONS else made(name), torch.rand(2, 6, 1, 17, 22)
    with torch.no_grad(), torch.backends.cudnn.flags(allow_tf32=False):
        there = net.cuda().predict_all(x.cuda(), history=3).cpu()
        torch.testing.assert_close(there, net.cpu().predict_all(x, history=3), rtol=0, atol=1e-4)


def test_a_fused_kernel_is_taken():
    net, x = made().cuda(), torch.rand(2, 6, 1, 16, 16, device="cuda")
    with torch.autocast("cuda", dtype=torch.bfloat16), sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        net.predict_all(x, history=3).float().sum().backward()


def test_a_graphed_step_trains_as_an_eager_one():
    """The same kernels in the same order; 1e-5 leaves room for convolutions that choose another algorithm."""
    first = made().cuda()
    data = [(torch.rand(2, 6, 1, 16, 16, device="cuda"), torch.rand(2, 2, device="cuda") < 0.5) for _ in range(5)]
    losses = []
    for graphed in (False, True):
        net = copy.deepcopy(first)
        optimizer = torch.optim.Adam(net.parameters(), 1e-3, capturable=True)
        if graphed:
            step = models.GraphedTrainingStep(net, optimizer, torch.nn.functional.mse_loss, data[0][0], 3)
            losses.append([step(*batch).item() for batch in data])
            continue
        losses.append([])
        for x, mask in data:
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(net.predict_all(x, 3, mask), x[:, 1:])
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
