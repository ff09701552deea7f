#!/usr/bin/env python
"""Put a trained model into the package as the one that ships, with its scores on its card and page.

sa-nowcast run recipes/default_model.yaml
python tools/default_model.py runs/default_model/model.nowcaster
sa-nowcast run recipes/default_model_scores.yaml
python tools/default_model.py --scores runs/default_model_scores/scores.csv
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from sa_nowcast.bundle.files import CARD
from sa_nowcast.forecasts.default_model import FOLDER
from sa_nowcast.forecasts.nowcaster import Nowcaster

PAGE = Path(__file__).parent.parent / "docs" / "explanation" / "default-model.md"
RECIPE = Path(__file__).parent.parent / "recipes" / "default_model.yaml"
BEGIN, END = "<!-- scores: python tools/default_model.py --scores -->", "<!-- end of scores -->"
LEADS = (1, 2, 3, 6, 9, 12)
MODELS = {"default": "mean", "default:matched": "matched", "sprog": "S-PROG", "extrapolation": "extrapolation"}

HEAD = """\
# The default model of sa_nowcast

Forecasts any regularly stepped field from its last 4 frames, in its own units: {parameters:,} weights of a SA-ConvLSTM
in Lagrangian coordinates. `sa_nowcast` takes it where no model is named; docs/explanation/default-model.md says more.

## Training

Reproduced by `sa-nowcast run recipes/default_model.yaml`: {updates:,} updates of 8 windows of 128 x 128 pixels, 4
frames to 12, on {period}. Validation on other synthetic fields: {ratio:.3f} of persistence's squared error.
Licence: Apache-2.0, as the package; the MRMS mosaic is public domain (NOAA National Severe Storms Laboratory).

## Scores on data that it was not trained on

"""
TAIL = """
## Not for

What four frames hold no information on (new showers, sunrise, a holiday); directions, phases and
categories. Train on your own data where its forecast is not good enough: `ds.sa_nowcast.fit(history=4, steps=4)`.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, help="folder of the trained model")
    parser.add_argument("--scores", type=Path, help="scores.csv of the comparison")
    asked = parser.parse_args(arguments)
    if asked.model is None and asked.scores is None:
        parser.error("give a model, or --scores")
    model = Nowcaster.load(asked.model or FOLDER)
    told = "Not scored yet." if asked.scores is None else table(pd.read_csv(asked.scores, dtype={"field": str}))
    # The recipe as it is committed, and the name of the source: a run keeps places on the machine that trained.
    provenance = {**model.provenance, "source": Path(model.provenance["source"]).name}
    recipe = RECIPE.read_text(encoding="utf-8")
    shipped = replace(model, card=card(model, told), recipe=recipe, provenance=provenance)
    shipped.save(FOLDER, overwrite=True)
    print(FOLDER / CARD)
    if asked.scores is not None:
        text = PAGE.read_text(encoding="utf-8")
        between = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
        PAGE.write_text(between.sub(lambda _: f"{BEGIN}\n\n{told}\n{END}", text), encoding="utf-8")
        print(PAGE)
    return 0


def card(model: Nowcaster, scores: str) -> str:
    """Return the model card."""
    known = model.provenance
    head = HEAD.format(
        parameters=known["parameters"],
        updates=known["updates"],
        period=known["training_period"],
        ratio=known["validation_loss"] / known["validation_persistence"],
    )
    return head + scores + TAIL


def table(scores: pd.DataFrame) -> str:
    """Return the scores in Markdown: squared errors of all datasets, then events of those of rain."""
    scores = scores.fillna({"field": ""})
    leads = [lead for lead in LEADS if lead in set(scores["lead"])]
    shown = ", ".join(map(str, leads))
    head = ["data", "MSE / persistence", "90 % at the last", "MSE / best reference", "90 % at the last",
            "largest of all lead times", "best at the last", "init times"]  # fmt: skip
    lines = [f"Of the mean forecast, at lead times of {shown} steps:", "", *_head(head)]
    for data, rows in _groups(scores[scores["model"] == "default"]):
        some, last = rows[rows["lead"].isin(leads)], rows.iloc[-1]
        worst = rows.loc[rows["of_best"].idxmax()]
        cells = [
            data,
            _figures(1 - some["skill_persistence"]),
            _figures([1 - last["skill_upper_persistence"], 1 - last["skill_lower_persistence"]]),
            _figures(some["of_best"]),
            _figures([last["of_best_lower"], last["of_best_upper"]]),
            f"{worst['of_best']:.2f} at {worst['lead']}",
            str(last["best"]),
            str(int(last["init_times"])),
        ]
        lines.append(_line(cells))
    events = [c for c in scores if str(c).startswith(("frequency_bias_", "csi_"))]
    rain = scores.dropna(subset=events, how="all") if events else scores[:0]
    if rain.empty:
        return "\n".join(lines) + "\n"
    words = [str(c).replace("_", " ").replace("csi", "CSI") + " mm/h" for c in events]
    lines += ["", f"Events of rain, at the same lead times ({shown}):", "", *_head(["data", "forecast", *words])]
    for data, of_set in _groups(rain[rain["lead"].isin(leads)]):
        for model, name in MODELS.items():
            if not (rows := of_set[of_set["model"] == model]).empty:
                lines.append(_line([data, name, *(_figures(rows[event]) for event in events)]))
    return "\n".join(lines) + "\n"


def _groups(scores: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield each dataset and field, by name, with its rows in the order of lead times."""
    for (name, field), rows in scores.groupby(["set", "field"], sort=False):
        yield f"{name} {field}".strip(), rows.sort_values("lead")


def _figures(values: Iterable[float]) -> str:
    return " ".join(f"{value:.2f}" if value == value else "-" for value in values)


def _head(cells: Sequence[str]) -> list[str]:
    return [_line(cells), "|" + " --- |" * len(cells)]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.exit(main())
