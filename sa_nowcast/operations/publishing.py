"""Publication of a forecast: whole or absent, by init time; and removal of old ones, after newer ones are there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr

from sa_nowcast._version import __version__
from sa_nowcast.computing.threads import cores
from sa_nowcast.derived.filling import FILLED
from sa_nowcast.forecasts.cf import CONVENTIONS
from sa_nowcast.interop import geotiff
from sa_nowcast.metadata import dims
from sa_nowcast.operations.clock import folder_name, init_of, iso, moment
from sa_nowcast.operations.making import Made
from sa_nowcast.operations.site import Site, bounding_box
from sa_nowcast.published import ALERTS, ARCHIVE, AREAS, FORECAST, FORECASTS, ITEM, LATEST, OBSERVED, POINTS
from sa_nowcast.storage.slots import STATUS, SlotStore
from sa_nowcast.storage.whole import partial_beside, storage, sync, write_whole

FLAGS: Final = ".flags.json"
"""What was exceeded, from which alerts are made; of the service alone."""
_FORMER: Final = ".former"
FORECAST_EXTENSION: Final = "https://stac-extensions.github.io/forecast/v0.2.0/schema.json"
_COG: Final = "image/tiff; application=geotiff; profile=cloud-optimized"


class Outputs:
    """What a service publishes, in its folder."""

    def __init__(self, site: Site, identity: str) -> None:
        self.site, self.identity, self.folder = site, identity, site.folder
        self.forecasts = site.folder / FORECASTS
        step = np.timedelta64(site.step, "ns")
        self.observed = SlotStore(site.folder / OBSERVED, dims.TIME, step)
        self.archive = SlotStore(site.folder / ARCHIVE, dims.INIT_TIME, step)
        self._profile: dict[str, Any] | None = None
        self._box: list[float] | None = None

    def tidy(self) -> None:
        """Remove what a killed process left half written."""
        with storage(self.folder):
            self.forecasts.mkdir(parents=True, exist_ok=True)
            for rest in (*self.forecasts.glob(".*"), *self.folder.glob(".*.partial")):
                if rest.name.endswith(_FORMER):
                    target = rest.with_name(rest.name[1:].removesuffix(_FORMER))
                    if not target.exists():  # killed before the new one was there
                        os.rename(rest, target)
                        continue
                shutil.rmtree(rest) if rest.is_dir() else rest.unlink()

    def published(self) -> list[int]:
        """Return the init times of the forecasts that are there, ascending."""
        found = (init_of(path.name) for path in self.forecasts.iterdir() if not path.name.startswith("."))
        return sorted(init for init in found if init is not None)

    # Frames

    def put_frame(self, time: int, values: Any) -> None:
        """Keep a frame that was accepted."""
        if not self.observed.exists:
            own = self.site
            # A history that arrives out of order may begin before the frame that came first.
            first = time - (own.history + own.recipe.steps) * own.step
            template = own.field(np.zeros((0, *own.like.shape), np.float32), []).to_dataset()
            template.attrs = {"Conventions": CONVENTIONS, "title": f"frames that {own.recipe.name} accepted"}
            self.observed.create(moment(first), template, {"service": self.identity})
        self.observed.put(moment(time), {str(self.site.like.name): values})

    def frame(self, time: int) -> Any:
        """Return a frame, or None."""
        return self.observed.get(moment(time), str(self.site.like.name)) if self.observed.exists else None

    # Forecasts

    def put_archive(self, made: Made) -> None:
        """Put a forecast into the archive; its status is written last."""
        name = str(made.mean.name)
        if not self.archive.exists:
            self.archive.create(moment(self.observed_first()), self._archive_template(made), {"service": self.identity})
        if self.archive.has(moment(made.init), STATUS):  # in place of an earlier one: no reader finds parts of both
            self.archive.remove(moment(made.init), (STATUS,))
        values: dict[str, Any] = {} if made.matched is None else {f"{name}_matched": made.matched.values}
        self.archive.put(moment(made.init), {**values, name: made.mean.values, STATUS: np.array(0)})

    def observed_first(self) -> int:
        """Return the first time of the frames' store, from which the archive begins too."""
        return int(self.observed.time(0).astype(np.int64))

    def _archive_template(self, made: Made) -> xr.Dataset:
        name = str(made.mean.name)
        arrays = {name: made.mean} | ({} if made.matched is None else {f"{name}_matched": made.matched})
        ds = xr.Dataset({n: a.drop_vars([dims.INIT_TIME, dims.VALID_TIME]) for n, a in arrays.items()})
        ds = ds.expand_dims({dims.INIT_TIME: np.array([made.init], "M8[ns]")})
        ds[dims.INIT_TIME].attrs = dict(dims.INIT_TIME_ATTRS)
        for n, array in arrays.items():
            ds[n] = ds[n].transpose(dims.INIT_TIME, dims.LEAD_TIME, *self.site.like.dims)
            ds[n].attrs = {k: v for k, v in array.attrs.items() if k not in ("sa_nowcast_as_of", "sa_nowcast_frames")}
            ds[n].attrs["ancillary_variables"] = STATUS
            ds[n].encoding = {k: v for k, v in array.encoding.items() if k == "grid_mapping"}
        leads = ds[dims.LEAD_TIME]
        if not (leads.values % np.timedelta64(1, "s")).any():
            ds = ds.assign_coords({dims.LEAD_TIME: (dims.LEAD_TIME, leads.values.astype("m8[s]"), leads.attrs)})
        ds[STATUS] = (
            dims.INIT_TIME,
            np.zeros(1, np.int64),
            {
                "standard_name": "status_flag",
                "long_name": "whether there is a forecast from this init time",
                "flag_values": [0, -1],
                "flag_meanings": "complete no_forecast",
            },
        )
        ds.attrs = {"Conventions": CONVENTIONS, "title": f"forecasts of {self.site.recipe.name}"}
        return ds

    def publish(self, made: Made, alerts: Mapping[str, Any]) -> Path:
        """Write the folder of a forecast beside its name, and rename it there, in place of an earlier one."""
        target = self.forecasts / folder_name(made.init)
        former = target.with_name(f".{target.name}{_FORMER}")
        with storage(target), partial_beside(target) as partial:
            partial.mkdir()
            assets: dict[str, dict[str, Any]] = {}
            if "netcdf" in self.site.recipe.output.formats:
                self._netcdf(made, partial / FORECAST)
                assets["forecast"] = _asset(FORECAST, "application/netcdf", "all products", ["data"])
            if "geotiff" in self.site.recipe.output.formats:
                assets |= self._geotiffs(made, partial)
            _json(partial / POINTS, made.points)
            assets["points"] = _asset(POINTS, "application/json", "series at points", ["data"])
            if made.areas is not None:
                _json(partial / AREAS, made.areas)
                assets["areas"] = _asset(AREAS, "application/geo+json", "means over areas", ["data"])
            _json(partial / ALERTS, alerts)
            _json(partial / FLAGS, made.flags)
            assets["alerts"] = _asset(ALERTS, "application/geo+json", "alerts", ["data"])
            if "stac" in self.site.recipe.output.formats:
                _json(partial / ITEM, self._item(made, assets))
            for path in (*partial.rglob("*"), partial):
                sync(path)
            if target.exists():
                os.rename(target, former)
            os.rename(partial, target)
            sync(self.forecasts)
            shutil.rmtree(former, ignore_errors=True)
        return target

    def finish(self, alerts: Mapping[str, Any], newest: int) -> None:
        """Tell which forecast is the newest."""
        with storage(self.folder):
            write_whole(self.folder / LATEST, folder_name(newest))
            _json(self.folder / ALERTS, alerts)

    def _netcdf(self, made: Made, path: Path) -> None:
        ds = made.dataset(f"{self.site.recipe.name}: nowcast from {iso(made.init)}")
        for variable in ds.data_vars.values():
            if variable.dtype.kind == "f":
                variable.encoding |= {"zlib": True, "complevel": 1}
        ds.to_netcdf(path, engine="netcdf4")

    def _geotiffs(self, made: Made, folder: Path) -> dict[str, dict[str, Any]]:
        if self._profile is None:
            self._profile = geotiff.cog_profile(made.mean.isel({dims.LEAD_TIME: 0}))
        maps: list[tuple[str, xr.DataArray, str | None]] = []
        products = {"mean": made.mean} | ({} if made.matched is None else {"matched": made.matched})
        if made.probability is not None:
            for number, threshold in enumerate(self.site.thresholds):
                one = made.probability.isel({dims.THRESHOLD: number})
                products[f"probability_{threshold:g}"] = one.assign_attrs(threshold=threshold)
        for name, field in products.items():
            (folder / name).mkdir()
            for number, lead in enumerate(self.site.leads):
                file = f"{name}/lead_{lead // 10**9:04d}s.tif"
                maps.append((file, field.isel({dims.LEAD_TIME: number}), iso(made.init + lead)))
        for window, one in made.sums.items():
            maps.append((f"accumulation_{window}.tif", one, None))

        def write(each: tuple[str, xr.DataArray, str | None]) -> None:
            file, field, valid = each
            tags = {"init_time": str(iso(made.init))} | ({} if valid is None else {"valid_time": valid})
            tags |= {FILLED: " ".join(made.filled)} if made.filled else {}
            geotiff.write_cog(field.reset_coords(drop=True), folder / file, tags, self._profile)

        with ThreadPoolExecutor(min(cores(), 4)) as pool:
            list(pool.map(write, maps))
        return {
            file.removesuffix(".tif").replace("/", "_"): _asset(file, _COG, str(field.attrs.get("long_name")), ["data"])
            for file, field, _ in maps
        }

    def _item(self, made: Made, assets: Mapping[str, Any]) -> dict[str, Any]:
        """Return a STAC item, by the specification 1.1.0."""
        site, last = self.site, made.init + self.site.leads[-1]
        if self._box is None:
            self._box = bounding_box(site.like)
        box = self._box
        geometry = None
        if box is not None:
            west, south, east, north = box
            ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
            geometry = {"type": "Polygon", "coordinates": [ring]}
        minutes = site.leads[-1] // 60 / 1e9
        variable = site.like.attrs.get("standard_name")
        return {
            "type": "Feature",
            "stac_version": "1.1.0",
            "stac_extensions": [FORECAST_EXTENSION],
            "id": f"{site.recipe.name}-{folder_name(made.init)}",
            "geometry": geometry,
            **({} if box is None else {"bbox": box}),
            "properties": {
                "datetime": None,
                "start_datetime": iso(made.init + site.leads[0]),
                "end_datetime": iso(last),
                "created": made.as_of,
                "title": f"{site.recipe.name}: nowcast from {iso(made.init)}",
                "forecast:reference_datetime": iso(made.init),
                "forecast:horizon": f"PT{minutes:g}M",
                **({} if variable is None else {"forecast:variable": str(variable)}),
                "processing:software": {"sa_nowcast": __version__},
                **({"sa_nowcast:filled": made.filled} if made.filled else {}),
            },
            "links": [],
            "assets": dict(assets),
        }

    # Removal

    def remove_before(self, oldest: int) -> list[int]:
        """Remove forecasts and frames from before a time; the newest forecast always stays."""
        there = self.published()
        old = [init for init in there[:-1] if init < oldest]
        name = str(self.site.like.name)
        for init in old:
            folder = self.forecasts / folder_name(init)
            away = folder.with_name(f".{folder.name}.old")
            with storage(folder):
                os.rename(folder, away)
                shutil.rmtree(away)
        if self.archive.exists:
            names = (STATUS, name, *([f"{name}_matched"] if "matched" in self.site.recipe.products else []))
            for when in self.archive.written(STATUS):
                if int(when.astype(np.int64)) < oldest and int(when.astype(np.int64)) not in there[-1:]:
                    self.archive.remove(when, names)
        if self.observed.exists:
            # Of the oldest forecast that is kept, all that it was made from.
            least = oldest - self.site.reach * self.site.step
            for when in self.observed.written(name):
                if int(when.astype(np.int64)) < least:
                    self.observed.remove(when, (name,))
        return old


def places_of(site: Site, made: Made) -> Sequence[Mapping[str, Any]]:
    """Return what alerts are about: points and areas, with their geometries."""
    result: list[dict[str, Any]] = []
    for point in made.points["points"]:
        lonlat = [point["longitude"], point["latitude"]]
        geometry = None if None in lonlat else {"type": "Point", "coordinates": lonlat}
        result.append({"name": point["name"], "kind": "point", "geometry": geometry})
    for feature in () if made.areas is None else made.areas["features"]:
        result.append({"name": feature["properties"]["name"], "kind": "area", "geometry": feature["geometry"]})
    return result


def _asset(file: str, kind: str, title: str, roles: list[str]) -> dict[str, Any]:
    return {"href": f"./{file}", "type": kind, "title": title, "roles": roles}


def _json(path: Path, content: Any) -> None:
    write_whole(path, json.dumps(content, allow_nan=False, ensure_ascii=False))
