"""Training from a model that was trained before: where it begins, what is kept, and what is refused."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from sequences import OPTIONS, rain, traffic, weather
from trials import LONG, Each, StopAfter, same_bits, with_callback

import sa_nowcast
from sa_nowcast import workflow
from sa_nowcast.errors import DataError, Interrupted, ModelError, RecipeError
from sa_nowcast.forecasts.default_model import default_model, of_channels
from sa_nowcast.forecasts.nowcaster import Nowcaster
from sa_nowcast.models import preset
from sa_nowcast.recipe import parse_recipe
from sa_nowcast.stream import SequenceDataset, prepare
from sa_nowcast.training.fit import fit
from sa_nowcast.training.start import network_to_train
from sa_nowcast.training.validation import Evaluation
from sa_nowcast.windows import shortened_windows

MOVING: dict[str, Any] = {"hidden": (2,), "kernel": 3, "patch": 4, "output": "moving"}
STILL = {"learning_rate": 1e-12, "average": 0.0}
"""Updates that change next to nothing."""


def begin(data: Any = None, **options: Any) -> Nowcaster:
    given = {"history": 4, "steps": 3, "progress": False} | LONG | options
    return fit(rain() if data is None else data, **given)


@pytest.fixture(scope="module")
def model() -> Nowcaster:
    """A small network in Lagrangian coordinates, which others start from."""
    return begin(network=MOVING, seed=3, max_steps=2)


def weights(nowcaster: Nowcaster) -> dict[str, torch.Tensor]:
    return nowcaster.network.state_dict()


@pytest.mark.parametrize("data", [rain(), weather(), traffic()], ids=["rain", "weather", "traffic"])
def test_without_a_network_training_begins_with_the_default_model_and_forecasts_what_it_does(data: Any) -> None:
    ours = begin(data, max_steps=1, validation_samples=1, batch_size=1, **STILL)
    assert ours.network.config == of_channels(len(ours.terms.channels)).config
    theirs = default_model().forecast(data, steps=3)
    scale = float(np.abs(theirs).max())
    np.testing.assert_allclose(ours.forecast(data), theirs, atol=1e-6 * scale)
    assert ours.provenance["start"]["model"] == "default"
    assert ours.provenance["start"]["digest"] == default_model().digest


def test_places_that_no_radar_sees_are_the_same_to_a_start_and_to_the_default_model() -> None:
    data = rain()
    data[:, :6, :9] = np.nan
    ours = begin(data, max_steps=1, validation_samples=1, batch_size=1, **STILL).forecast(data)
    theirs = default_model().forecast(data, steps=3)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert np.isnan(ours[:, :6, :9]).all()
    assert float(ours.min()) >= 0


def test_without_updates_the_result_is_the_start_as_it_is_and_without_a_start_none_is_refused(
    model: Nowcaster, tmp_path: Path
) -> None:
    for _ in range(2):  # and again in the same folder
        ours = begin(start=model, max_steps=0, folder=tmp_path / "run")
        assert same_bits(ours, model)
        assert (ours.provenance["updates"], ours.provenance["best_step"]) == (0, 0)
    with pytest.raises(RecipeError, match=r"training\.max_steps: 0, from random weights, expected at least 1"):
        begin(network=MOVING, max_steps=0)


def test_the_start_is_kept_where_nothing_later_is_better(model: Nowcaster) -> None:
    lines: list[str] = []
    worse = begin(start=model, learning_rate=3.0, clip_norm=None, average=0.0, report=lines.append)
    assert worse.provenance["best_step"] == 0
    assert all(torch.equal(w, weights(model)[name]) for name, w in weights(worse).items())
    assert worse.provenance["start"]["validation_ratio"] == [1.0, 1.0, 1.0]
    assert lines[-1].startswith("kept the start, ")
    assert lines[-1] in worse.card


def test_what_is_better_at_every_lead_time_is_taken_and_said(model: Nowcaster) -> None:
    lines: list[str] = []
    astray = copy.deepcopy(model.network)
    with torch.no_grad():
        astray.head.bias[-2] = 3.0  # for persistence and its trend, whatever moves
    better = begin(start=replace(model, network=astray), max_steps=30, learning_rate=0.1, report=lines.append)
    found = better.provenance["start"]
    assert better.provenance["best_step"] == found["updates"] > 0
    assert max(found["validation_ratio"]) <= 1
    assert np.mean(found["validation_ratio"]) < 1
    assert f"validation loss {np.mean(found['validation_ratio']):.3f} of it" in lines[-1]
    assert lines[-1] in better.card
    assert json.loads(json.dumps(better.provenance, allow_nan=False)) is not None


def test_no_lead_time_may_become_worse_than_the_start() -> None:
    def of(*errors: float, count: float = 1) -> Evaluation:
        sums = np.array(errors, dtype=float)[:, None]
        counts = np.full_like(sums, count)
        counts[sums[:, 0] == 0] = 0
        return Evaluation(counts, sums, sums, counts, sums, sums)

    start = of(1, 2, 0)
    assert of(0.5, 2, 0).against(start) == pytest.approx(0.75)  # nothing was observed at the last lead time
    assert of(0.5, 2.001, 0).against(start) == np.inf
    assert of(0, 0, 0).against(of(0, 0, 0)) == np.inf


def test_the_core_stays_as_it_is_unless_it_is_to_be_trained(model: Nowcaster) -> None:
    for core in (False, True):
        ours = begin(start=model, train_core=core, learning_rate=1e-2, validation=0, max_steps=2)
        changed = {n for n, w in weights(ours).items() if not torch.equal(w, weights(model)[n])}
        assert "head.bias" in changed
        assert any(n.startswith("layers.") for n in changed) == core
        assert ours.provenance["start"]["validation_ratio"] is None


def test_a_start_that_is_interrupted_goes_on_to_the_same_bits(
    model: Nowcaster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"start": model, "learning_rate": 1e-2, "train_core": True}
    whole = begin(**options)
    with monkeypatch.context() as now:
        with_callback(now, StopAfter(3))
        with pytest.raises(Interrupted):
            begin(folder=tmp_path, **options)
    again = begin(folder=tmp_path, **options)
    assert same_bits(whole, again)
    assert again.provenance["start"] == whole.provenance["start"]
    other = begin(network=MOVING, seed=4, max_steps=1)
    with pytest.raises(RecipeError, match="the run in this folder was another one: start differs"):
        begin(folder=tmp_path, **{**options, "start": other})


def test_a_path_and_a_network_of_another_kind_can_be_a_start_too(nowcaster: Nowcaster, tmp_path: Path) -> None:
    saved = nowcaster.save(tmp_path / "rain.nowcaster")
    ours = begin(start=saved, train_core=True, **STILL)
    assert ours.network.config == nowcaster.network.config
    assert ours.provenance["start"]["model"] == str(saved)
    assert f"start='{saved}'" in ours.card


def test_a_short_sequence_is_enough_and_its_windows_end_with_their_period(model: Nowcaster) -> None:
    ours = begin(rain(14), start=model, steps=6)
    assert ours.provenance["training_period"] == "2020-06-01T00:00/2020-06-01T00:30"
    assert ours.provenance["validation_period"] == "2020-06-01T00:35/2020-06-01T01:05"
    assert (
        len(ours.provenance["start"]["validation_ratio"])
        == len(ours.provenance["validation_mse"]["rain"]["forecast"])
        == 3
    )
    with pytest.raises(DataError, match="would be left to train on"):
        begin(rain(14), network=MOVING, steps=6)
    # Nothing beyond a period takes part in it.
    data = rain(14)
    data[7:] *= 5
    same = begin(data, start=model, steps=6, validation=0.5)
    assert same.scaling == ours.scaling


def test_after_the_end_of_a_window_the_starts_forecast_is_the_target(
    model: Nowcaster, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def look(trainer: Any, module: Any, raw: torch.Tensor) -> None:
        x, valid = prepare(raw, module.scaling, 4, by_window=True)
        assert x.shape[1] == 4 + model.terms.steps  # and not the two that are asked for
        y, known = module._completed(x, valid)
        expected = model.network(x[:, :4], model.terms.steps)
        for sample in range(len(x)):
            for lead in range(model.terms.steps):
                there = bool(valid[sample, 4 + lead].all())
                seen.append(there)
                theirs = (x[sample, 4 + lead] if there else expected[sample, lead]).detach()
                torch.testing.assert_close(y[sample, 4 + lead], theirs)
                assert known[sample, 4 + lead].all()

    with_callback(monkeypatch, Each(before=look))
    ours = begin(rain(14), start=model, steps=2)
    assert set(seen) == {True, False}
    assert ours.terms.steps == 2


def test_shortened_windows_end_where_frames_lack() -> None:
    starts, ends = shortened_windows([(0, 9), (11, 20)], 6, 3, (2, 19), [15])
    assert list(zip(starts.tolist(), ends.tolist(), strict=True)) == [
        (2, 8), (3, 9), (4, 9), (5, 9), (6, 9), (11, 15), (12, 15), (16, 19),
    ]  # fmt: skip
    data = rain()
    dataset = SequenceDataset(data, 4, 3, starts=[0, 14], ends=[7, 19], shuffle=False)
    whole, short = dataset.batch([0]), dataset.batch([1])
    assert torch.isfinite(whole).all()
    assert torch.isfinite(short[:, :5]).all()
    assert torch.isnan(short[:, 5:]).all()
    after = data["time"].values[-1:] + np.timedelta64(5, "m")
    np.testing.assert_array_equal(dataset.times(1), np.concatenate([data["time"].values[14:], after]))


def test_what_cannot_start_is_refused_in_one_line(nowcaster: Nowcaster, model: Nowcaster) -> None:
    with pytest.raises(RecipeError, match=r"history: 1, and training starts from a model.*history=4, or network="):
        begin(history=1)
    with pytest.raises(RecipeError, match=r"network\.hidden: \[8\], and the start .* has \[2\]"):
        begin(start=model, network={**MOVING, "hidden": (8,)})
    with pytest.raises(ModelError, match=r"1 channels, expected 2, the channels of the data"):
        begin(weather(), start=nowcaster)
    with pytest.raises(RecipeError, match="start: a int, expected 'default', a path or a Nowcaster"):
        begin(start=3)
    assert begin(weather(), start=model, max_steps=1).network.config.channels == 2


def test_by_name_training_starts_from_random_weights() -> None:
    config, start = network_to_train({"preset": "small"}, None, channels=2, history=1)
    assert (config, start) == (preset("small", channels=2), None)


def test_a_recipe_without_a_network_starts_from_the_default_model() -> None:
    text = "name: a\nhistory: 4\nsteps: 3\ndata: {source: sample:mrms}\noutput: {folder: run}\n"
    bare = parse_recipe(text)
    assert (bare.start, bare.network, bare.training.preset, bare.least) == ("default", None, "fine-tune", 5)
    named = parse_recipe(text + "network: {preset: small}\n")
    assert (named.start, named.training.preset, named.least) == (None, "small", 7)
    training = "training: {preset: tuned, truth_start: 0, context_truth_start: 1}\n"
    both = parse_recipe(text + "network: {output: moving}\nstart: mine.nowcaster\n" + training)
    assert (both.start, both.training.preset) == ("mine.nowcaster", "tuned")


def test_a_recipe_trains_from_a_saved_model_and_says_so(model: Nowcaster, tmp_path: Path) -> None:
    saved, data = model.save(tmp_path / "mine.nowcaster"), tmp_path / "rain.nc"
    rain(40).to_netcdf(data)
    tree = {
        "name": "further", "history": 4, "steps": 3, "start": str(saved), "data": {"source": str(data)},
        "training": {**OPTIONS, "max_steps": 2}, "output": {"folder": str(tmp_path / "run")},
    }  # fmt: skip
    lines: list[str] = []
    made = Nowcaster.load(workflow.train(parse_recipe(yaml.safe_dump(tree)), progress=False, report=lines.append))
    assert made.provenance["start"]["digest"] == model.digest
    assert made.network.config == model.network.config
    assert any(line.startswith(("kept the start", "better than the start")) for line in lines)
    assert parse_recipe(made.recipe) == parse_recipe(yaml.safe_dump(tree))
    # Done, and skipped, until there is another model.
    workflow.train(parse_recipe(yaml.safe_dump(tree)), progress=False, report=lines.append)
    assert lines[-1].startswith("skipping train")
    begin(network=MOVING, seed=5, max_steps=1).save(saved, overwrite=True)
    with pytest.raises(RecipeError, match="another"):
        workflow.train(parse_recipe(yaml.safe_dump(tree)), progress=False)


def test_a_model_of_an_earlier_lagrangian_network_is_refused_in_one_line(model: Nowcaster, tmp_path: Path) -> None:
    class Former(Nowcaster):
        def _stored(self) -> dict[str, torch.Tensor]:
            return {n: w for n, w in super()._stored().items() if not n.startswith(("leads.", "growth"))}

    saved = Former(**vars(replace(model))).save(tmp_path / "old.nowcaster")
    with pytest.raises(ModelError, match=r"of an earlier version.*train it again, or take the version") as caught:
        sa_nowcast.load(saved)
    assert "\n" not in str(caught.value)
