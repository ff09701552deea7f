"""Every module, cell and rollout against the independent NumPy oracle, and against its own other ways to compute."""

import networks_oracle as oracle
import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from sa_nowcast import models
from sa_nowcast.models.gates import LSTMUpdate, lstm_update
from sa_nowcast.models.maps import fold, unfold
from sa_nowcast.models.memory import MemoryUpdate, memory_update

# float64 sums of a few thousand terms in another order differ by about 1e-13; 1e-10 leaves room for the depth.
EXACT = {"rtol": 0, "atol": 1e-10}


def randomise(module, seed=0):
    """Random weights everywhere, larger than at initialisation, so that attention is far from uniform."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, 0.4, generator=generator)
    return module.double()


def arrays(module):
    return {name: value.detach().numpy() for name, value in module.state_dict().items()}


def small(name, **options):
    defaults = {"channels": 2, "hidden": (5, 5, 5), "kernel": 3, "patch": 2}
    return randomise(models.build(name, **{**defaults, **options}))


def random_frames(*shape, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("key_channels", [None, 3, 11])
@pytest.mark.parametrize(("score_scale", "key_stride"), [("none", 1), ("sqrt", 1), ("none", 2), ("sqrt", 3)])
def test_self_attention_is_equations_2_to_4(key_channels, score_scale, key_stride):
    module = randomise(models.SelfAttention(6, key_channels, score_scale, key_stride))
    h = random_frames(2, 6, 7, 5)
    scale = (key_channels or 6) ** -0.5 if score_scale == "sqrt" else 1.0
    for sample, got in zip(h.numpy(), module(h).detach().numpy(), strict=True):
        np.testing.assert_allclose(got, oracle.self_attention(arrays(module), sample, scale, key_stride), **EXACT)


@pytest.mark.parametrize("key_channels", [None, 3, 11])
@pytest.mark.parametrize(("score_scale", "key_stride"), [("none", 1), ("sqrt", 1), ("none", 2), ("sqrt", 3)])
def test_self_attention_memory_is_equations_5_to_9(key_channels, score_scale, key_stride):
    module = randomise(models.SelfAttentionMemory(6, key_channels, score_scale, key_stride))
    h, m = random_frames(2, 6, 7, 5), random_frames(2, 6, 7, 5, seed=2)
    scale = (key_channels or 6) ** -0.5 if score_scale == "sqrt" else 1.0
    h_hat, m_next = (out.detach().numpy() for out in module(h, m))
    for b in range(2):
        expected = oracle.self_attention_memory(arrays(module), h[b].numpy(), m[b].numpy(), scale, key_stride)
        np.testing.assert_allclose(h_hat[b], expected[0], **EXACT)
        np.testing.assert_allclose(m_next[b], expected[1], **EXACT)


@pytest.mark.parametrize("name", oracle.PAPER)
def test_every_cell_is_its_equations(name):
    net = small(name, channels=3, hidden=(5,), patch=1)
    layer = net.layers[0]
    x, *state = (random_frames(2, c, 7, 5, seed=c) for c in (3, 5, 5, 5))
    before = [s.permute(0, 2, 3, 1).contiguous() for s in state]
    weights = layer.weights()
    inputs = layer.inputs(weights, x.permute(0, 2, 3, 1).contiguous())
    out, after = layer.step(weights, inputs, tuple(before[: 2 if name in ("convlstm", "sa-convlstm-base") else 3]))
    w = oracle.under(arrays(net), "layers.0")
    for b in range(2):
        expected = oracle.cell(name, w, x[b].numpy(), tuple(s[b].numpy() for s in state))
        np.testing.assert_allclose(out[b].detach().permute(2, 0, 1), expected[0], **EXACT)
        for got, want in zip(after, expected, strict=False):
            np.testing.assert_allclose(got[b].detach().permute(2, 0, 1), want, **EXACT)


@pytest.mark.parametrize("output", ["frame", "change"])
@pytest.mark.parametrize("name", oracle.STACKS)
def test_a_three_layer_rollout_with_patches_is_the_oracles(name, output):
    net = small(name, output=output)
    frames = random_frames(2, 5, 2, 7, 9)
    truth = torch.tensor([[True], [False]])
    with torch.no_grad():
        predictions = net.predict_all(frames, history=3, truth_mask=truth).numpy()
        forecast = net(frames[:, :3], steps=2).numpy()
    for b in range(2):
        args = net.config, arrays(net), frames[b].numpy(), 3, 2
        np.testing.assert_allclose(predictions[b], oracle.rollout(*args, truth=truth[b].tolist()), **EXACT)
        np.testing.assert_allclose(forecast[b], oracle.rollout(*args)[2:], **EXACT)


def test_options_of_attention_reach_every_layer_of_a_rollout():
    net = small("sa-convlstm", hidden=(5, 5), key_channels=3, score_scale="sqrt", key_stride=2)
    frames = random_frames(1, 4, 2, 9, 11)
    with torch.no_grad():
        predictions = net.predict_all(frames, history=2)[0].numpy()
    np.testing.assert_allclose(predictions, oracle.rollout(net.config, arrays(net), frames[0].numpy(), 2, 2), **EXACT)


@pytest.mark.parametrize("name", oracle.STACKS)
def test_known_frames_at_once_equal_one_step_after_another_in_float32(name):
    """1e-6 is a few float32 roundings of values of order one; batching changes only the order of sums."""
    torch.manual_seed(0)
    net = models.build(name, channels=2, hidden=(16, 16, 16), kernel=5, patch=4)
    x = torch.rand(2, 6, 2, 30, 22)
    with torch.no_grad():
        got = net.predict_all(x, history=5)
        known, weights = fold(x, 4), net.layers.weights()
        state = net.layers.start(known[0])
        for t in range(5):
            top, state = net.layers.step(weights, known[t], state)
            one = unfold(net.read_out(top, known[t])[None], 4, (30, 22))[:, 0]
            torch.testing.assert_close(got[:, t], one, rtol=0, atol=1e-6)


@pytest.mark.parametrize("checkpoint_steps", [1, 2, 3, 50])
@pytest.mark.parametrize("name", ["sa-convlstm", "sa-convlstm-base"])
def test_checkpointing_changes_neither_predictions_nor_gradients(name, checkpoint_steps):
    frames, truth = random_frames(2, 7, 2, 7, 9), torch.tensor([[True, False], [False, True]])
    results = []
    for steps in (0, checkpoint_steps):
        net = small(name, checkpoint_steps=steps)
        out = net.predict_all(frames, history=4, truth_mask=truth)
        out.square().sum().backward()
        results.append([out, *(p.grad for p in net.parameters())])
    for kept, recomputed in zip(*results, strict=True):
        torch.testing.assert_close(recomputed, kept, rtol=1e-12, atol=1e-12)


def test_gradcheck_of_self_attention():
    module = randomise(models.SelfAttention(3, 2))
    h = random_frames(1, 3, 3, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda *inputs: functional(module, inputs, (h,)), tuple(module.parameters()))
    assert torch.autograd.gradcheck(module, (h,))


def test_gradcheck_of_self_attention_memory():
    module = randomise(models.SelfAttentionMemory(3, 2))
    inputs = random_frames(1, 3, 3, 2).requires_grad_(), random_frames(1, 3, 3, 2, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda *parameters: functional(module, parameters, inputs), tuple(module.parameters())
    )
    assert torch.autograd.gradcheck(module, inputs)


def functional(module, parameters, inputs):
    names = [name for name, _ in module.named_parameters()]
    return torch.func.functional_call(module, dict(zip(names, parameters, strict=True)), inputs)


@pytest.mark.parametrize("first", [True, False])
def test_gradcheck_of_the_lstm_update(first):
    from_input, from_hidden, c = (random_frames(1, 2, 3, n, seed=n).requires_grad_() for n in (8, 8, 2))
    from_hidden = None if first else from_hidden
    assert torch.autograd.gradcheck(LSTMUpdate.apply, (from_input, from_hidden, c))


def test_gradcheck_of_the_memory_update():
    gates, bias, m = random_frames(1, 2, 3, 6), random_frames(6), random_frames(1, 2, 3, 2)
    assert torch.autograd.gradcheck(MemoryUpdate.apply, tuple(x.requires_grad_() for x in (gates, bias, m)))


@pytest.mark.parametrize("name", oracle.STACKS)
def test_gradcheck_of_a_whole_rollout(name):
    net = small(name, channels=1, hidden=(2, 2), patch=2)
    frames = random_frames(1, 4, 1, 4, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: net.predict_all(x, history=2), (frames,))


def test_the_updates_that_a_compiler_sees_are_the_updates_that_run(monkeypatch):
    gates, other, c = (random_frames(2, 3, 4, n, seed=n) for n in (12, 12, 3))
    memory, bias = random_frames(2, 3, 4, 9, seed=4), random_frames(9)
    eager = [*lstm_update(gates, other, c), *lstm_update(gates, None, c), *memory_update(memory, bias, c)]
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    seen = [*lstm_update(gates, other, c), *lstm_update(gates, None, c), *memory_update(memory, bias, c)]
    torch.testing.assert_close(eager, seen, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", ["sa-convlstm", "sa-convlstm-base", "sa-convlstm-no-zm"])
@pytest.mark.parametrize("options", [{}, {"key_channels": 3}, {"key_stride": 2}, {"hidden": (8, 6)}])
def test_the_fused_kernel_is_the_one_that_is_taken(name, options):
    """With every other backend forbidden, an attention that the kernel refuses would raise."""
    net = models.build(name, **{"channels": 1, "hidden": (8, 8), "kernel": 3, "patch": 2, **options})
    x = torch.rand(2, 4, 1, 9, 12)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        net.predict_all(x, history=2).sum().backward()


def test_both_attentions_are_one_call(monkeypatch):
    shapes = []

    def spy(query, key, value, **options):
        shapes.append((tuple(query.shape), tuple(key.shape)))
        return attention_of_torch(query, key, value, **options)

    attention_of_torch = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    models.SelfAttentionMemory(6)(torch.rand(3, 6, 4, 5), torch.rand(3, 6, 4, 5))
    assert shapes == [((3, 2, 20, 6), (3, 2, 20, 6))]


@pytest.mark.parametrize("name", ["sa-convlstm", "sa-convlstm-base", "sa-convlstm-no-zm"])
def test_attention_map_is_one_row_of_the_oracles_weights(name):
    net = small(name, hidden=(5, 5), key_stride=2)
    frames = random_frames(1, 3, 2, 7, 9)
    w = arrays(net)
    with torch.no_grad():
        predicted = net(frames, steps=1)[0, 0].numpy()
        got = models.attention_map(net, frames, (5, 6), layer=1, step=3, steps=2)
    states = [tuple(np.zeros((5, 4, 5)) for _ in range(3)) for _ in range(2)]
    for frame in [*frames[0].numpy(), predicted]:
        before = list(states)
        x = oracle.fold(frame, 2)
        for n in range(2):
            below = x
            states[n] = oracle.cell(name, oracle.under(w, f"layers.{n}"), x, states[n], stride=2)
            x = states[n][0]
    top = oracle.under(w, "layers.1")
    h, c, m = before[1]
    if name == "sa-convlstm-base":
        looked_at = {"X": ("below.attention", below, below, 0), "H": ("before.attention", h, h, 0)}
    else:
        h, _ = oracle.lstm(oracle.under(top, "gates"), below, h, c)
        path = "memory.attention" if name == "sa-convlstm" else "attention"
        looked_at = {"H": (path, h, h, 0)} | ({"M": (path, h, m, 1)} if name == "sa-convlstm" else {})
    assert got.keys() == looked_at.keys()
    for key, (path, query_map, key_map, n) in looked_at.items():
        part = oracle.under(top, path)
        rows = oracle.attention_weights(query_map, key_map, part["query.weight"], part[f"keys.{n}.weight"], stride=2)
        position = (5 // 2) * 5 + 6 // 2
        np.testing.assert_allclose(got[key][0].reshape(-1), rows[position], **EXACT)
