"""What every network promises: nothing dead, nothing kept between calls, any sizes, and clear refusals."""

import copy

import networks_oracle as oracle
import pytest
import torch
from listed import OPTIONS

from sa_nowcast import models
from sa_nowcast.errors import ModelError, RecipeError

every_stack = pytest.mark.parametrize("name", oracle.STACKS)


def tiny(name="sa-convlstm", **options):
    torch.manual_seed(0)
    return models.build(name, **{"channels": 2, "hidden": (6, 6, 6), "kernel": 3, "patch": 2, **options})


@every_stack
@pytest.mark.parametrize("output", ["frame", "change"])
def test_every_parameter_gets_a_gradient(name, output):
    net = tiny(name, output=output)
    torch.nn.init.normal_(net.head.weight)
    predictions, penalty = net.predictions_and_penalty(torch.rand(2, 5, 2, 8, 10), history=3)
    (predictions.square().sum() + (0 if penalty is None else penalty)).backward()
    dead = [name for name, p in net.named_parameters() if p.grad is None or not (p.grad != 0).any()]
    assert dead == []


@every_stack
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_zeroing_any_layer_changes_the_output(name, layer):
    net, x = tiny(name), torch.rand(2, 4, 2, 8, 10)
    with torch.no_grad():
        before = net(x, steps=2)
        for parameter in net.layers[layer].parameters():
            parameter.zero_()
        assert (net(x, steps=2) - before).abs().max() > 1e-4


@every_stack
def test_nothing_is_kept_between_calls(name):
    net, x, other = tiny(name), torch.rand(2, 4, 2, 8, 10), torch.rand(3, 2, 2, 12, 6)
    state = copy.deepcopy(net.state_dict())
    with torch.no_grad():
        first = net(x, steps=3)
        net(other, steps=1)
        assert torch.equal(net(x, steps=3), first)
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert not list(net.buffers())


@every_stack
def test_a_sample_does_not_depend_on_its_batch(name):
    net, x = tiny(name), torch.rand(5, 4, 2, 9, 7)
    with torch.no_grad():
        whole = net(x, steps=2)
        torch.testing.assert_close(net(x[3:], steps=2), whole[3:], rtol=0, atol=1e-6)


@every_stack
def test_a_shorter_forecast_is_the_beginning_of_a_longer_one(name):
    net, x = tiny(name), torch.rand(1, 3, 2, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(net(x, steps=2), net(x, steps=5)[:, :2], rtol=0, atol=1e-6)


@every_stack
def test_predict_all_is_the_forecast_where_it_forecasts(name):
    net, x = tiny(name), torch.rand(2, 7, 2, 9, 7)
    with torch.no_grad():
        predictions = net.predict_all(x, history=4)
        torch.testing.assert_close(predictions[:, 3:], net(x[:, :4], steps=3), rtol=0, atol=1e-6)
        truth = torch.ones(2, 2, dtype=torch.bool)
        told = net.predict_all(x, history=4, truth_mask=truth)
        torch.testing.assert_close(told, net.predict_all(x, history=6), rtol=0, atol=1e-6)


def test_without_mask_the_frames_to_predict_are_never_read():
    net, x = tiny(), torch.rand(1, 6, 2, 8, 8)
    other = torch.cat([x[:, :3], torch.rand(1, 3, 2, 8, 8)], dim=1)
    with torch.no_grad():
        assert torch.equal(net.predict_all(x, history=3), net.predict_all(other, history=3))


def test_truth_is_told_to_the_samples_and_steps_that_the_mask_names():
    net, x = tiny(), torch.rand(2, 6, 2, 8, 8)
    mask = torch.tensor([[True, False], [False, False]])
    with torch.no_grad():
        free, told = net.predict_all(x, history=3), net.predict_all(x, history=3, truth_mask=mask)
    same = (free == told).flatten(2).all(2)
    assert same.tolist() == [[True, True, True, False, False], [True] * 5]


@every_stack
@pytest.mark.parametrize("size", [(5, 7), (16, 16), (1, 1), (13, 3)])
def test_one_set_of_weights_fits_every_grid(name, size):
    net = tiny(name, patch=4)
    y = net(torch.rand(1, 2, 2, *size), steps=2)
    assert y.shape == (1, 2, 2, *size)
    assert torch.isfinite(y).all()


def test_trained_on_64_it_runs_on_500_by_300():
    net = tiny(hidden=(4, 4), patch=4, key_stride=4)
    net.predict_all(torch.rand(1, 3, 2, 64, 64), history=2).sum().backward()
    with torch.no_grad():
        assert net(torch.rand(1, 2, 2, 500, 300), steps=2).shape == (1, 2, 2, 500, 300)


@every_stack
def test_padding_takes_no_part(name):
    """In 4×2 frames with patches of 4, columns 2 and 3 are padding; what the network has for them does not matter."""
    net, x = tiny(name, channels=1, patch=4), torch.rand(1, 4, 1, 4, 2)
    with torch.no_grad():
        before = net(x, steps=3)
        net.head.bias.view(4, 4)[:, 2:] = 100
        net.head.weight.view(4, 4, 6)[:, 2:] = 100
        if name != "sa-convlstm-base":  # its first attention gives features of its own in place of the pixels
            first = next(p for p in net.layers[0].parameters() if p.shape[1:] == (16, 3, 3))
            first.view(-1, 4, 4, 3, 3)[:, :, 2:] = 100
        torch.testing.assert_close(net(x, steps=3), before, rtol=0, atol=1e-6)
    net.predict_all(x, history=2).sum().backward()
    assert not net.head.weight.grad.view(4, 4, 6)[:, 2:].any()


def test_zeros_written_out_equal_the_padding_that_is_added():
    net = tiny("convlstm", channels=1, patch=4)
    x = torch.rand(1, 3, 1, 6, 9)
    with torch.no_grad():
        padded = torch.nn.functional.pad(x, (0, 3, 0, 2))
        torch.testing.assert_close(net(x)[..., :6, :9], net(padded)[..., :6, :9], rtol=0, atol=0)


def test_an_untrained_network_that_predicts_changes_is_persistence():
    net, x = tiny(output="change"), torch.rand(2, 3, 2, 9, 7)
    torch.testing.assert_close(net(x, steps=4), x[:, -1:].expand(-1, 4, -1, -1, -1), rtol=0, atol=0)


def test_the_forget_gate_starts_where_the_config_says():
    net = tiny(forget_bias=2.5)
    assert net.layers[0].gates.bias.tolist() == [0.0] * 6 + [2.5] * 6 + [0.0] * 12


def test_gradients_stay_in_float32_under_bf16_autocast():
    net, x = tiny(), torch.rand(2, 5, 2, 8, 8)
    exact = net.predict_all(x, history=3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = net.predict_all(x, history=3)
        assert net.layers[0].inputs(net.layers[0].weights(), torch.rand(1, 4, 4, 8)).dtype == torch.float32
    assert rounded.dtype == torch.float32
    rounded.square().mean().backward()
    assert all(p.grad.dtype == torch.float32 and torch.isfinite(p.grad).all() for p in net.parameters())
    # bf16 keeps 8 bits: 0.4 % of values of order one, in a rollout of five steps.
    torch.testing.assert_close(rounded, exact, rtol=0, atol=0.03)


@every_stack
def test_a_few_updates_lower_the_loss(name):
    net = tiny(name)
    ramp = torch.linspace(0, 1, 8)[None, None, None, None, :].expand(2, 6, 2, 8, 8)
    x = torch.stack([ramp[:, t].roll(t, -1) for t in range(6)], dim=1)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    losses = []
    for _ in range(15):
        loss = (net.predict_all(x, history=3) - x[:, 1:]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_not_a_number_is_refused_by_batch_index():
    net, x = tiny(), torch.rand(4, 3, 2, 8, 8)
    x[1, 0, 0, 2, 2] = x[3, 2, 1, 0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"batch index 1, 3: hold NaN"):
        net(x)
    with pytest.raises(ModelError, match=r"batch index 1, 3: hold NaN"):
        net.predict_all(x, history=2)
    x = torch.rand(2, 3, 2, 8, 8)
    x[0, 0, 0, 0, 0] = float("inf")
    with pytest.raises(ModelError, match="batch index 0: hold infinite values"):
        net(x)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 3, 8, 8), "they have 3 channels, expected 2"),
        ((3, 2, 8, 8), "their shape is"),
        ((1, 0, 2, 8, 8), "shape"),
    ],
)
def test_frames_of_another_shape_are_refused(shape, message):
    with pytest.raises(ModelError, match=message):
        tiny()(torch.zeros(shape))


@pytest.mark.parametrize("history", [0, 4, 5])
def test_a_history_that_leaves_nothing_is_refused(history):
    with pytest.raises(RecipeError, match="history and steps"):
        tiny().predict_all(torch.rand(1, 4, 2, 8, 8), history=history)


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(ModelError, match=r"truth_mask: its shape is \(2, 2\), expected \(1, 2\)"):
        tiny().predict_all(torch.rand(1, 6, 2, 8, 8), history=3, truth_mask=torch.ones(2, 2, dtype=torch.bool))


@pytest.mark.parametrize(
    ("position", "options", "message"),
    [
        ((8, 0), {}, "row 8"),
        ((0, -1), {}, "column -1"),
        ((0, 0), {"layer": 3}, "layer 3"),
        ((0, 0), {"step": 3}, "step 3"),
    ],
)
def test_an_attention_map_that_is_not_there_is_refused(position, options, message):
    with pytest.raises(RecipeError, match=message):
        models.attention_map(tiny(), torch.rand(1, 3, 2, 8, 8), position, **options)


def test_a_network_without_attention_has_no_attention_map():
    with pytest.raises(ModelError, match="convlstm has no attention"):
        models.attention_map(tiny("convlstm"), torch.rand(1, 3, 2, 8, 8), (0, 0))
    net = tiny("convlstm")
    x = torch.zeros(1, 2, 2, net.config.channels * net.config.patch**2)
    with pytest.raises(ModelError, match="Layer has no attention"):  # also where the registry would say otherwise
        net.layers.attention_rows(net.layers.weights(), x, net.layers.start(x), 0, (0, 0))


def test_attention_maps_sum_to_one_for_every_layer_and_step():
    net, x = tiny(), torch.rand(2, 3, 2, 9, 7)
    for layer in range(3):
        for step in range(4):
            maps = models.attention_map(net, x, (8, 6), layer=layer, step=step, steps=2)
            for weights in maps.values():
                assert weights.shape == (2, 5, 4)
                torch.testing.assert_close(weights.sum((1, 2)), torch.ones(2))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in models.NAMES if name not in OPTIONS])
def test_a_compiled_cell_predicts_and_trains_the_same(name):
    """1e-5 of the largest: the compiler keeps float32 but reorders sums, through five steps and their gradients."""
    x = torch.rand(1, 5, 2, 8, 8)
    results = []
    for prepare in (lambda net: net, models.compile_cells):
        net = prepare(tiny(name, hidden=(6, 6)))
        out, penalty = net.predictions_and_penalty(x, history=3)
        (out.square().sum() + (0 if penalty is None else penalty)).backward()
        results.append([out, *(p.grad for p in net.parameters())])
    for eager, compiled in zip(*results, strict=True):
        largest = max(1.0, float(eager.detach().abs().max()))
        torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-5 * largest)


def test_a_cuda_graph_is_refused_without_a_cuda_device():
    net = tiny()
    optimizer = torch.optim.Adam(net.parameters(), capturable=True)
    with pytest.raises(ModelError, match="frames are on cpu, expected a CUDA device"):
        models.GraphedTrainingStep(net, optimizer, torch.nn.functional.mse_loss, torch.rand(1, 4, 2, 8, 8), 2)
