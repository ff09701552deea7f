"""The model card: one page in Markdown that says what a model is, what it was trained on, and how good it is.

Mitchell et al. (2019), Model Cards for Model Reporting, doi:10.1145/3287560.3287596, name what belongs on it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from sa_nowcast.forecasts.terms import Terms
from sa_nowcast.recipe import Recipe, TrainingRecipe
from sa_nowcast.times import show_step

if TYPE_CHECKING:
    from sa_nowcast.forecasts.nowcaster import Nowcaster

_UNKNOWN = "not recorded"
_TABLES = 12  # channels with a table of their own


def model_card(
    nowcaster: Nowcaster,
    *,
    hardware: str | None = None,
    seconds: float | None = None,
    call: str | None = None,
) -> str:
    """Return a page about a model; no program reads it back.

    Parameters
    ----------
    nowcaster : Nowcaster
        Its terms, provenance and network; what they lack is said to be not recorded.
    hardware : str, optional
        What it was trained on.
    seconds : float, optional
        How long the training took, with validation.
    call : str, optional
        Python code that repeats the training, for a model without a recipe.

    Returns
    -------
    str
    """
    terms, known = nowcaster.terms, nowcaster.provenance
    parts = [
        f"# {_title(nowcaster)}",
        f"Forecasts {terms.steps} frames from the last {terms.history}, {show_step(terms.step)} apart: lead times "
        f"{show_step(terms.step)} to {show_step(terms.step * terms.steps)}. Made by sa_nowcast "
        f"{_text(known.get('sa_nowcast_version'))}.",
        "## Data",
        _bullets(_data(terms, known)),
        "## Network",
        _bullets(_network(nowcaster)),
        "## Training",
        _bullets(_training(known, hardware, seconds)),
        "## Scores",
        *_scores(terms, known),
        "## Use",
        _code("import sa_nowcast", 'nowcaster = sa_nowcast.load("path/of/this/folder")', "forecast = "
              f"nowcaster.forecast(ds)  # ds: {_wanted(terms)}"),
        "## Not for",
        _bullets(_limits(terms, moving=nowcaster.network.config.output == "moving")),
        "## Reproduce",
        *_again(nowcaster, call),
        "## Licence",
        "Not stated. Fill in the licences of the weights and of the training data before you pass this model on.",
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


_CALIBRATION = "## Calibration"


def calibrated_card(card: str, about: Mapping[str, Any]) -> str:
    """Return a card with a section on how the model was calibrated, in place of an earlier one."""
    kept = re.sub(rf"{_CALIBRATION}\n.*?(?=^## |\Z)", "", card, flags=re.S | re.M).rstrip("\n")
    first, last = (_text(part) for part in str(about.get("period")).split("/"))
    rows = [
        ("Data", _text(about.get("dataset"))),
        ("Init times", f"{_text(about.get('init_times'))}, {first} to {last}"),
        ("Pairs of forecast and observation", f"{_text(about.get('pairs'))} at each lead time"),
        ("Lead times", _text(about.get("steps"))),
    ]
    text = f"{_CALIBRATION}\n\nProbabilities, quantiles and members are those that forecasts had there.\n\n"
    return f"{kept}\n\n{text}{_bullets(rows)}\n".lstrip("\n")


def gain(start: Mapping[str, Any]) -> str:
    """Return one line on how much better a model is than the one that its training started from."""
    name, ratios = _plain(start.get("model")), _numbers(start.get("validation_ratio"))
    if not ratios:
        return f"started from {name}; without a validation period the last weights were kept, better than it or not"
    if not start.get("updates"):
        return f"kept the start, {name}: no later weights were better on the validation period"
    return (
        f"better than the start, {name}: validation loss {sum(ratios) / len(ratios):.3f} of it, "
        f"{min(ratios):.3f} to {max(ratios):.3f} by lead time, after {start.get('updates')} updates"
    )


def fit_call(arguments: Mapping[str, Any]) -> str:
    """Return the Python call of ``ds.sa_nowcast.fit`` with these arguments, one a line."""
    lines = [f"    {name}={value!r}," for name, value in arguments.items()]
    return "\n".join(["nowcaster = ds.sa_nowcast.fit(", *lines, ")"])


def resolved_recipe(recipe: Recipe) -> str:
    """Return a recipe as YAML with every default written out; `sa_nowcast.recipe.parse_recipe` reads the same back."""
    text: str = yaml.dump(
        recipe.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None
    )
    return text


class _Dumper(yaml.SafeDumper):
    """YAML without aliases, in which a text that the reader of recipes would take for a number is in quotes."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write everything out."""
        return True


# YAML 1.1 takes 1e3 for a text, the reader of recipes for a number.
_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9.]+[eE][-+]?[0-9]+$"), list("-+.0123456789")
)


def _title(nowcaster: Nowcaster) -> str:
    names = [_text(name) for name, _ in nowcaster.terms.channels]
    shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return f"Nowcaster of {shown}: {nowcaster.network.config.name}"


def _data(terms: Terms, known: Mapping[str, Any]) -> list[tuple[str, str]]:
    channels = ", ".join(f"{_text(name)} ({_units(units)})" for name, units in terms.channels)
    rows = [
        ("Variables and units", channels),
        ("Cadence", show_step(terms.step)),
        ("Grid spacing", _spacing(terms)),
        ("Source", _text(known.get("source"))),
    ]
    if terms.projection:
        rows.insert(3, ("Projection", _text(terms.projection.get("grid_mapping_name", "named in model.json"))))
    training, validation = known.get("training_period"), known.get("validation_period")
    rows.append(("Training period", _period(training, terms)))
    rows.append(("Validation period", "none" if "validation_period" in known and validation is None else
                 _period(validation, terms)))  # fmt: skip
    between = _between(training, validation, terms)
    if between:
        rows.append(("Split", f"in time, with {between} left unused between the two periods; no window lies in both"))
    return rows


def _network(nowcaster: Nowcaster) -> list[tuple[str, str]]:
    config = nowcaster.network.config
    fields = {k: v for k, v in config.to_dict().items() if k not in ("name", "hidden", "channels")}
    return [
        ("Network", config.name),
        ("Layers", f"{len(config.hidden)}, of {', '.join(map(str, config.hidden))} hidden channels"),
        ("Parameters", f"{sum(p.numel() for p in nowcaster.network.parameters()):,}"),
        ("Fields", ", ".join(f"`{k}: {_plain(v)}`" for k, v in fields.items())),
        ("Scaling of the values", ", ".join(dict.fromkeys(c.kind for c in nowcaster.scaling.channels))),
    ]


def _training(known: Mapping[str, Any], hardware: str | None, seconds: float | None) -> list[tuple[str, str]]:
    options = _options(known)
    reasons = {
        "max_steps": "all updates were made",
        "max_time": f"its time was up (`max_time: {_plain(options.get('max_time'))}`)",
        "patience": f"validation did not improve any more (`patience: {_plain(options.get('patience'))}`)",
    }
    ended = known.get("ended_by")
    rows = [
        ("Hardware", _text(hardware)),
        ("Time", _UNKNOWN if seconds is None else _duration(seconds)),
        ("Updates", _text(known.get("updates"))),
        ("Ended because", reasons.get(str(ended), _text(ended))),
        ("Weights", f"the best ones in validation, after {_text(known.get('best_step'))} updates"
         if known.get("validation_loss") is not None else "the last ones"),
        ("torch", _text(known.get("torch_version"))),
    ]  # fmt: skip
    if isinstance(known.get("start"), Mapping):
        rows.insert(0, ("Start", _text(gain(known["start"]))))
    if options:
        usual = TrainingRecipe().model_dump(mode="json")
        other = [f"`{k}: {_plain(v)}`" for k, v in options.items() if k not in usual or usual[k] != v]
        rows.append(("Options that are not the defaults", ", ".join(other) or "none"))
    return rows


def _scores(terms: Terms, known: Mapping[str, Any]) -> list[str]:
    scores = known.get("validation_mse")
    count = _options(known).get("validation_samples")
    if not isinstance(scores, Mapping) or not scores:
        return ["None: there was no validation period." if "validation_mse" in known else f"{_UNKNOWN.capitalize()}."]
    out = [
        f"Mean squared errors of {'' if count is None else f'{count} '}windows from the validation period, and those "
        "of persistence (the last known frame) for the same pixels. The weights were chosen by these windows, so "
        "the errors are somewhat smaller than those of an independent test period: verify on your own data."
    ]
    for name, units in terms.channels[:_TABLES]:
        both = scores.get(name)
        both = both if isinstance(both, Mapping) else {}
        ours, theirs = _numbers(both.get("forecast")), _numbers(both.get("persistence"))
        if not ours:
            continue
        head = f"MSE ({_squared(units)})"
        lines = [
            f"**{_text(name)}**" if len(terms.channels) > 1 else "",
            "" if len(terms.channels) > 1 else None,
            f"| lead time | {head} | persistence | ratio |",
            "| --- | ---: | ---: | ---: |",
        ]
        for i, (mine, still) in enumerate(zip(ours, theirs, strict=False), start=1):
            ratio = f"{mine / still:.3f}" if still else "none"
            lines.append(f"| {show_step(terms.step * i)} | {mine:.4g} | {still:.4g} | {ratio} |")
        out.append("\n".join(line for line in lines if line is not None).strip("\n"))
    if len(terms.channels) > _TABLES:
        out.append(f"The other {len(terms.channels) - _TABLES} channels stand in `model.json`, `validation_mse`.")
    return out


def _limits(terms: Terms, moving: bool) -> list[tuple[str, str]]:
    step = show_step(terms.step)
    units = ", ".join(dict.fromkeys(_units(u) for _, u in terms.channels if u is not None))
    other_units = f"anything but {units} is refused; convert the values first" if units else ""
    if any(u is None for _, u in terms.channels):
        unchecked = "the training data named none for some variables, so these are not checked: give the same ones"
        other_units += ("; " if other_units else "") + unchecked
    if terms.dy is None or terms.dx is None:
        other_grid = "the training data had no coordinates, so it is not checked: give the same spacing"
    else:
        other_grid = f'a spacing other than {_spacing(terms)} is refused, unless `grid="any"` asks to try'
    return [
        ("Another cadence", f"frames that are not {step} apart are refused; resample them first"),
        ("Other units", other_units),
        ("Another grid", other_grid),
        (
            "Longer lead times",
            f"beyond {show_step(terms.step * terms.steps)} it was not trained"
            + ("" if moving else ", and reads its own output"),
        ),
        ("Other places, seasons and instruments", "not tested; verify first"),
    ]


def _again(nowcaster: Nowcaster, call: str | None) -> list[str]:
    version = _text(nowcaster.provenance.get("sa_nowcast_version"))
    if nowcaster.recipe:
        return [
            f"`recipe.yaml` in this folder is the recipe with every default written out. With sa_nowcast {version} and "
            "the same data:",
            "```console\n$ sa-nowcast run recipe.yaml --output runs/again\n```",
        ]
    if call is not None:
        return [f"With sa_nowcast {version}, and `ds` the same data:", _code("import sa_nowcast", call)]
    return ["Not recorded beyond the options in `model.json`."]


def _options(known: Mapping[str, Any]) -> Mapping[str, Any]:
    options = known.get("options")
    training = options.get("training") if isinstance(options, Mapping) else None
    return training if isinstance(training, Mapping) else {}


def _numbers(values: Any) -> list[float]:
    if not isinstance(values, list) or not all(isinstance(v, int | float) for v in values):
        return []
    return [float(v) for v in values]


def _wanted(terms: Terms) -> str:
    return f"at least {terms.history} frames, {show_step(terms.step)} apart"


def _spacing(terms: Terms) -> str:
    if terms.dy is None or terms.dx is None:
        return "unknown, the training data had no coordinates"
    return f"{terms.dy:.6g} x {terms.dx:.6g} {_text(terms.grid_units or '')}".rstrip()


def _ends(period: Any) -> tuple[np.datetime64, np.datetime64] | None:
    """Return the first and last frame of a period, where it is one in time; that of synthetic samples is not."""
    try:
        first, last = (np.datetime64(part, "ns") for part in str(period).split("/"))
    except ValueError:
        return None
    return None if np.isnat(first) or np.isnat(last) else (first, last)


def _period(period: Any, terms: Terms) -> str:
    ends = _ends(period)
    if ends is None:
        return _text(period)
    first, last = str(period).split("/")
    return f"{first} to {last}, {int((ends[1] - ends[0]) / terms.step) + 1:,} times of the cadence"


def _between(training: Any, validation: Any, terms: Terms) -> str | None:
    one, other = _ends(training), _ends(validation)
    if one is None or other is None or other[0] <= one[1]:
        return None
    unused = int((other[0] - one[1]) / terms.step) - 1
    return f"{unused} {'frame' if unused == 1 else 'frames'}"


def _units(units: str | None) -> str:
    return "no units" if units is None else _text(units)


def _squared(units: str | None) -> str:
    if units in (None, "", "1"):
        return "the values' own units, squared" if units is None else "1"
    text = _text(units)
    return f"({text})²" if " " in text else f"{text}²"


def _duration(seconds: float) -> str:
    whole = max(round(seconds), 1)
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    parts = [(hours, "h"), (minutes, "min"), (left if not hours else 0, "s")]
    return " ".join(f"{n} {unit}" for n, unit in parts if n)


def _plain(value: Any) -> str:
    """Return a value as a recipe writes it, within backticks."""
    shown = {True: "true", False: "false"}.get(value) if isinstance(value, bool) else "null" if value is None else None
    return shown or _one_line(str(value)).replace("`", "'")


def _text(value: Any) -> str:
    """Return a text from the data as Markdown that shows it as it is, on one line."""
    if value is None:
        return _UNKNOWN
    return re.sub(r"([\\`*_|<>\[\]#])", r"\\\1", _one_line(str(value)))


def _one_line(text: str) -> str:
    return " ".join(text.split())[:500]


def _bullets(rows: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"- **{name}:** {text}" for name, text in rows)


def _code(*lines: str) -> str:
    body = "\n".join(lines)
    longest = max((len(run) for run in re.findall("`+", body)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}python\n{body}\n{fence}"
