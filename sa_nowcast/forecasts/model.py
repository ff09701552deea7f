"""A trained network with all that it is saved with: its identity, and its folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import torch

from sa_nowcast.bundle import files as bundle
from sa_nowcast.bundle.summary import to_html
from sa_nowcast.errors import ModelError
from sa_nowcast.forecasts.calibration import Calibration
from sa_nowcast.forecasts.terms import Terms
from sa_nowcast.models import NetworkConfig, build
from sa_nowcast.models.rollout import Network
from sa_nowcast.scaling import Scaling
from sa_nowcast.times import show_step

Storage = Literal["float32", "float16"]
_LATEST = {
    "leads.weight",
    "decay",
    "smoothing",
    "margins.head.weight",
}  # that networks in Lagrangian coordinates had not before


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A trained network, its scaling, its terms and where it comes from.

    What forecasts by it is `sa_nowcast.Nowcaster`.

    Attributes
    ----------
    network : Network
    scaling : Scaling
    terms : Terms
        History, cadence, channels, units and grid that it was trained for.
    provenance : mapping
        Plain JSON data: package version, training period, options, validation scores.
    card : str
        The model card in Markdown; see `sa_nowcast.bundle.card.model_card`. Empty where there is none.
    recipe : str
        The recipe that reproduces the model, as YAML; empty where it did not come from one.
    storage : {"float32", "float16"}
        What the weights are stored in; see `half`.
    calibration : Calibration, optional
        The distribution of its forecasts; see `sa_nowcast.calibrate`. It has an identity of its own.

    Card and recipe are no part of the model's identity: `digest` does not cover them.
    """

    network: Network
    scaling: Scaling
    terms: Terms
    provenance: Mapping[str, Any]
    card: str = ""
    recipe: str = ""
    storage: Storage = "float32"
    calibration: Calibration | None = None

    def half(self) -> Self:
        """Return this model with its weights rounded to half precision, which take half the space on disk.

        The network still computes in float32, from weights that float16 can hold; so a saved and loaded model gives the
        same forecasts as the one that is returned here, and slightly other ones than the one that was trained.

        Raises
        ------
        ModelError
            A weight that float16 cannot hold.
        """
        rounded = {name: weight.detach().cpu().half().float() for name, weight in self.network.state_dict().items()}
        for name, weight in rounded.items():
            if not torch.isfinite(weight).all():
                raise ModelError(f"weight {name}", "is beyond the range of float16", fix="save it without half")
        with torch.device("meta"):
            network = build(self.network.config)
        network.load_state_dict(rounded, assign=True)
        return replace(self, network=network.eval(), storage="float16")

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the model to a folder and return its path.

        It holds ``weights.safetensors`` and ``model.json``, and beside them ``calibration.safetensors``, ``README.md``
        (the card) and ``recipe.yaml``, where there are any.

        Raises
        ------
        StorageError
            Something stands there already, or the folder cannot be written.
        """
        texts = {bundle.CARD: self.card, bundle.RECIPE: self.recipe}
        calibration = None if self.calibration is None else self.calibration.stored()
        bundle.write_bundle(path, self._stored(), self._description(), overwrite, texts, calibration)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote. Nothing in the folder is executed; every byte of weights and description is checked.

        Raises
        ------
        ModelError
            No model there, one of a newer format, or one that was truncated or altered.
        """
        weights, content = bundle.read_bundle(path)
        try:
            config = NetworkConfig.from_dict(content["network"])
            terms = Terms.from_dict(content["terms"])
            scaling = Scaling.from_dict(content["scaling"])
            provenance = dict(content["provenance"])
            if not config.channels == len(terms.channels) == len(scaling.channels):
                raise ModelError("channels", f"{config.channels}, {len(terms.channels)} and {len(scaling.channels)}")
            if len(config.hidden) > len(weights):
                raise ModelError("network", f"{len(config.hidden)} layers with {len(weights)} tensors")
            # Built without memory of its own: a description that declares a huge network costs nothing before the
            # weights have shown that they fit it.
            with torch.device("meta"):
                network = build(config)
            storage: Storage = "float16" if content.get("storage") == "float16" else "float32"
            wrong = [f"{n} is {w.dtype}" for n, w in weights.items() if w.dtype != getattr(torch, storage)]
            if wrong:
                raise ModelError("weights", wrong[0], expected=f"torch.{storage}")
            tables = bundle.read_calibration(path, content)
            calibration = None if tables is None else Calibration.of(tables, content[bundle.CALIBRATED])
            if calibration is not None and len(calibration.tables) != config.channels:
                raise ModelError("calibration", f"{len(calibration.tables)} channels", expected=f"{config.channels}")
            former = config.output == "moving" and not weights.keys() >= _LATEST
            if not former:
                network.load_state_dict({n: w.float() for n, w in weights.items()}, strict=True, assign=True)
        except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
            line = " ".join(str(error).split())[:200]
            raise ModelError(
                str(path), f"description and weights do not fit together ({line})", fix="train it again"
            ) from error
        if former:
            raise ModelError(
                str(path),
                "a network in Lagrangian coordinates of an earlier version, which knows less of the lead time",
                fix="train it again, or take the version of sa_nowcast that made it",
            )
        card, recipe = (bundle.read_text(path, name) for name in (bundle.CARD, bundle.RECIPE))
        return cls(
            network.eval(), scaling, terms, provenance, card=card, recipe=recipe, storage=storage,
            calibration=calibration,
        )  # fmt: skip

    @cached_property
    def digest(self) -> str:
        """SHA-256 over weights and description: the identity of the model."""
        return str(bundle.encode(self._stored(), self._description())[1]["sha256"])

    def __repr__(self) -> str:
        channels = ", ".join(f"{n} [{u}]" if u else n for n, u in self.terms.channels)
        period = self.provenance.get("training_period", "unknown")
        return (
            f"<Nowcaster {self.network.config.name}: {channels}, {self.terms.history} -> {self.terms.steps} frames of "
            f"{show_step(self.terms.step)}, trained on {period}>"
        )

    def _repr_html_(self) -> str:
        about = None if self.calibration is None else self.calibration.about
        return to_html(self.network, self.terms, self.provenance, self.digest, about)

    def _stored(self) -> dict[str, torch.Tensor]:
        return {n: w.detach().to(getattr(torch, self.storage)) for n, w in self.network.state_dict().items()}

    def _description(self) -> dict[str, Any]:
        return {
            # Only where it is not the usual one: what was saved before there was a choice keeps its digest.
            **({} if self.storage == "float32" else {"storage": self.storage}),
            "network": self.network.config.to_dict(),
            "scaling": self.scaling.to_dict(),
            "terms": asdict(self.terms),
            "provenance": dict(self.provenance),
        }
