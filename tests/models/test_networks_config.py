"""The record that a network is built from: presets, JSON, refusals; and that it needs no torch."""

import dataclasses
import json
import subprocess
import sys

import pytest
import torch

from sa_nowcast import models
from sa_nowcast.errors import ModelError, RecipeError, SaNowcastError
from sa_nowcast.models import NetworkConfig, preset


def test_neither_the_package_nor_a_config_loads_torch():
    code = (
        "import sys; from sa_nowcast import models; models.preset('tuned').to_dict(); "
        "from sa_nowcast.models.config import NetworkConfig; print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_the_defaults_are_the_paper_and_the_faithful_preset():
    assert preset("faithful") == NetworkConfig()
    assert dataclasses.asdict(NetworkConfig()) == {
        "name": "sa-convlstm", "channels": 1, "hidden": (64, 64, 64, 64), "kernel": 5, "patch": 4, "key_channels": None,
        "score_scale": "none", "key_stride": 1, "checkpoint_steps": 0, "forget_bias": 1.0, "output": "frame",
    }  # fmt: skip


@pytest.mark.parametrize("name", models.PRESETS)
def test_presets_take_overrides_and_survive_json(name):
    config = preset(name, name="convlstm", hidden=(8, 16), channels=3)
    assert (config.name, config.hidden, config.channels) == ("convlstm", (8, 16), 3)
    assert NetworkConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_the_tuned_preset_starts_at_persistence():
    assert preset("tuned").output == "change"
    assert set(preset("tuned").hidden) == {128}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "sa-convlst"}, "there is no network 'sa-convlst'.*Fix: write 'sa-convlstm'"),
        ({"kernel": 4}, "network.kernel: 4 is even.*expected an odd width. Fix: use 3 or 5"),
        ({"hidden": ()}, r"network.hidden: \(\) describes no layer"),
        ({"hidden": 64}, "network.hidden: 64 describes no layer"),
        ({"hidden": (64, 0)}, r"network.hidden\[1\]: 0, expected a whole number of at least 1"),
        ({"channels": 0}, "network.channels: 0"),
        ({"channels": True}, "network.channels: True"),
        ({"patch": 2.0}, "network.patch: 2.0"),
        ({"key_channels": 0}, "network.key_channels: 0"),
        ({"key_stride": 0}, "network.key_stride: 0"),
        ({"checkpoint_steps": -1}, "network.checkpoint_steps: -1"),
        ({"score_scale": "half"}, "network.score_scale: 'half', expected one of none, sqrt"),
        ({"output": "frames"}, "network.output: 'frames', expected one of frame, change"),
        ({"forget_bias": float("nan")}, "network.forget_bias: nan, expected a finite number"),
        ({"name": "predrnn", "norm": 1}, "network.norm: 1, expected true or false"),
        ({"name": "mim", "cascade": "papers"}, "network.cascade: 'papers', expected one of paper, code"),
        (
            {"name": "predrnn-v2", "decoupling": -0.1},
            "network.decoupling: -0.1, expected a finite number of at least 0",
        ),
    ],
)
def test_values_that_make_no_network_are_refused_in_one_line(fields, message):
    with pytest.raises(RecipeError, match=message) as caught:
        NetworkConfig.from_dict(fields)
    assert "\n" not in str(caught.value)


def test_an_unknown_field_is_refused_with_the_nearest_one():
    with pytest.raises(ModelError, match="write 'hidden'"):
        NetworkConfig.from_dict({"hiden": [64]})
    with pytest.raises(ModelError, match="write 'key_stride'"):
        models.build("convlstm", key_strid=2)
    with pytest.raises(RecipeError, match="write 'tuned'"):
        preset("tunned")


@pytest.mark.parametrize("fields", [2147483648, [], "sa-convlstm", None])
def test_what_is_no_mapping_is_refused_in_one_line(fields: object) -> None:
    with pytest.raises(ModelError, match=r"network: .*a mapping of its fields"):
        NetworkConfig.from_dict(fields)  # type: ignore[arg-type]


def test_build_takes_a_name_or_a_record_and_keeps_the_record():
    config = preset("faithful", hidden=(4,), patch=2)
    assert models.build(config).config == config
    assert models.build(config, channels=3).config == dataclasses.replace(config, channels=3)
    assert models.build("convlstm", hidden=(4,)).config == preset("faithful", name="convlstm", hidden=(4,))
    assert models.build(name="convlstm", hidden=(4,)).config == preset("faithful", name="convlstm", hidden=(4,))


@pytest.mark.parametrize("name", models.__all__)
def test_every_public_name_is_there_and_documented(name):
    assert getattr(models, name) is not None
    assert name in ("NAMES", "PRESETS") or getattr(models, name).__doc__


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'ConvGRU'"):
        _ = models.ConvGRU


def test_parameter_counts_follow_from_the_equations():
    """64 channels in 4 layers, kernel 5, 16 pixels to a patch; added up by hand."""
    gates = [(16 + 64) * 256 * 25 + 3 * 256] + 3 * [(64 + 64) * 256 * 25 + 3 * 256]
    convlstm = sum(gates) + 64 * 16 + 16
    q_k_v_and_out = 4 * 64 * 64
    k_v_and_more_out = 3 * 64 * 64
    gates_of_h = 64 * 9 + 64 * 192 + 192
    gates_of_z = 64 * 9 + 64 * 192
    expected = {
        "convlstm": convlstm,
        "convlstm-memory": convlstm + 4 * gates_of_h,
        "sa-convlstm-base": convlstm + 4 * q_k_v_and_out + 3 * q_k_v_and_out + 4 * 16 * 16,
        "sa-convlstm-no-zm": convlstm + 4 * (q_k_v_and_out + gates_of_h + gates_of_z),
        "sa-convlstm": convlstm + 4 * (q_k_v_and_out + k_v_and_more_out + gates_of_h + gates_of_z),
    }
    assert {name: parameters(name) for name in expected} == expected


def parameters(name, biases=True, **options):
    with torch.device("meta"):
        return sum(p.numel() for p in models.build(name, **options).parameters() if biases or p.ndim > 1)


@pytest.mark.parametrize(
    ("name", "hidden", "millions"),
    [
        ("predrnn", (128, 128, 128, 128), 23.84),
        ("predrnn", (64, 64, 64, 64), 6.05),
        ("predrnn-v2", (128, 128, 128, 128), 23.86),
        ("predrnn-plus-plus", (128, 128, 128, 128), 35.31),
        ("predrnn-plus-plus", (128, 64, 64, 64), 15.37),
        ("predrnn-plus-plus", (64, 64, 64, 64), 8.92),
        ("causal-lstm", (128, 128, 128, 128), 33.67),
        ("mim", (128, 128, 128, 128), 42.27),
        ("mim", (64, 64, 64, 64), 10.66),
        ("mim-star", (128, 128, 128, 128), 52.51),
    ],
)
def test_zigzag_networks_have_as_many_parameters_as_their_convolutions(name, hidden, millions):
    """Patch 4 of one channel, kernel 5, without norms and biases, of which the published code has none."""
    assert round(parameters(name, biases=False, hidden=hidden) / 1e6, 2) == millions


def test_the_parameters_of_predrnn_are_added_up_by_hand():
    width = 64
    every_layer = (4 + 3 + 2) * width**2 * 25 + 2 * width**2 + 7 * width
    layers = 4 * every_layer + 7 * width * 25 * (16 + 3 * width)
    assert parameters("predrnn") == layers + width * 16 + 16
    assert parameters("predrnn", norm=True) == layers + width * 16 + 16 + 4 * (7 + 4 + 3 + 1) * width
    assert parameters("predrnn-v2") == layers + width * 16 + 16 + width**2
    assert parameters("predrnn-v2", decoupling=0) == parameters("predrnn")


@pytest.mark.parametrize("name", ["predrnn", "predrnn-v2", "mim"])
def test_layers_of_several_widths_are_refused_where_the_memory_cannot_change_its_own(name):
    with pytest.raises(
        RecipeError, match=r"network\.hidden: \[8, 4\], with name: (predrnn|mim).*Fix: write \[8, 8\]"
    ) as caught:
        models.build(name, hidden=(8, 4))
    assert "\n" not in str(caught.value)


def test_a_grid_that_does_not_fit_is_refused_with_what_would():
    config, spans = preset("faithful", patch=1), {"history": 10, "steps": 10}
    gib = 2**30
    needed = models.estimate_memory(config, (64, 64), 8, **spans)
    assert models.require_memory(config, (64, 64), 8, **spans, available=needed) == needed
    with pytest.raises(ModelError, match=r"sa-convlstm on 64×64, batch 8.*GiB to train.*Fix: use a batch of 3"):
        models.require_memory(config, (64, 64), 8, **spans, available=needed * 4 // 7)
    with pytest.raises(ModelError, match="batch of 1 with checkpoint_steps: 1"):
        models.require_memory(config, (300, 300), 2, **spans, available=20 * gib)
    with pytest.raises(ModelError, match="a larger patch than 1"):
        models.require_memory(config, (5000, 5000), 1, **spans, available=gib)
    with pytest.raises(SaNowcastError, match="to forecast"):
        models.require_memory(config, (5000, 5000), 1, **spans, training=False, available=gib)
    assert models.available_memory("cpu") > 0


def test_checkpointing_and_forecasting_are_estimated_to_take_less():
    spans = {"grid": (128, 128), "batch": 2, "history": 10, "steps": 10}
    trained = models.estimate_memory(preset("faithful"), **spans)
    assert models.estimate_memory(preset("faithful", checkpoint_steps=1), **spans) < trained / 4
    assert models.estimate_memory(preset("faithful"), **spans, training=False) < trained / 4
