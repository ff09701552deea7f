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
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from sa_nowcast.bundle.files import CARD
from sa_nowcast.forecasts.default_model import FOLDER
from sa_nowcast.forecasts.nowcaster import Nowcaster

PAGE = Path(__file__).parent.parent / "docs" / "explanation" / "default-model.md"
RECIPE = Path(__file__).parent.parent / "recipes" / "default_model.yaml"
BEGIN, END = "<!-- scores: python tools/default_model.py --scores -->", "<!-- end of scores -->"

HEAD = """\
# The default model of sa_nowcast

Forecasts any regularly stepped field from its last 4 frames, in its own units: {parameters:,} weights of a SA-ConvLSTM
in Lagrangian coordinates. `sa_nowcast` takes it where no model is named; docs/explanation/default-model.md says more.

## Training

Reproduced by `sa-nowcast run recipes/default_model.yaml`: {updates:,} updates of 8 windows of 80 x 80 pixels, 4 frames
to 5, on {period}. Validation on other synthetic fields: {ratio:.3f} of persistence's squared error.
Licence: Apache-2.0, as the package; the MRMS mosaic is public domain (NOAA National Severe Storms Laboratory), the
temperature contains modified Copernicus Climate Change Service information.

## Scores on data that it was not trained on

"""
TAIL = """
## Not for

What four frames hold no information on (new showers, sunrise, a holiday); probabilities; directions, phases and
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
    """Return the scores in Markdown: a line for each dataset and field."""
    scores = scores.fillna({"field": ""})
    leads = sorted(scores["lead"].unique())
    lines = [
        "MSE of the default model as a share of persistence's, and of optical flow's (extrapolation), by lead time in "
        "steps; in brackets the ends of the 90 % interval at the last.",
        "",
        "| data | of persistence: " + " | ".join(f"{lead}" for lead in leads) + " | | of extrapolation: "
        + " | ".join(f"{lead}" for lead in leads) + " | | init times |",
        "| --- |" + " --- |" * (2 * len(leads) + 3),
    ]  # fmt: skip
    ours = scores[scores["model"] == "default"]
    for (name, field), rows in ours.groupby(["set", "field"], sort=False):
        rows = rows.sort_values("lead")
        cells = [f"{name} {field}".strip()]
        for reference in ("persistence", "extrapolation"):
            cells += [f"{1 - skill:.2f}" for skill in rows[f"skill_{reference}"]]
            last = rows.iloc[-1]
            low, high = (1 - last[f"skill_{end}_{reference}"] for end in ("upper", "lower"))
            cells.append(f"({low:.2f} {high:.2f})")
        lines.append("| " + " | ".join([*cells, str(rows["init_times"].iloc[0])]) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
