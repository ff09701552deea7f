"""References that kerchunk and VirtualiZarr write for NetCDF files: opened and streamed as the files themselves."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numcodecs.zlib
import numpy as np
import pytest
import xarray as xr
from object_server import ObjectServer
from sequences import rain
from virtual import by_kerchunk, by_virtualizarr

import sa_nowcast
from sa_nowcast.errors import DataError, RecipeError, SaNowcastError
from sa_nowcast.hindcast import hindcast
from sa_nowcast.sources import open_source
from sa_nowcast.sources.paths import stamp
from sa_nowcast.storage import references
from sa_nowcast.storage.references import ReferenceStore
from sa_nowcast.stream import SequenceDataset, loader
from sa_nowcast.stream.blocks import ZarrBlocks
from sa_nowcast.workflow.data import data_identity

pytestmark = [
    pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning"),
    pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr"),
]
FRAMES = 24


def _files(folder: Path) -> None:
    """Write a NetCDF file of every packing and layout that matters, and a classic one."""
    data = rain(FRAMES)
    ds = data.to_dataset(name="chunked")
    ds["packed"], ds["contiguous"], ds["count"] = data.where(data > 0.1), data + 1, (data * 10).astype("int16")
    ds["byte"] = (data * 5).astype("uint8")
    plain = {"_FillValue": None, "zlib": True}
    encoding: dict[str, dict[str, Any]] = {
        "chunked": plain | {"chunksizes": (2, 24, 20), "shuffle": True},
        "packed": {"dtype": "int16", "scale_factor": 0.01, "_FillValue": -1, "zlib": True, "chunksizes": (5, 24, 20)},
        "contiguous": {"_FillValue": None, "contiguous": True},
        "count": plain | {"chunksizes": (1, 24, 20)},
        "byte": {"_FillValue": np.uint8(255), "chunksizes": (3, 12, 20)},
    }
    ds.to_netcdf(folder / "rain.nc", encoding=encoding)
    ds[["contiguous"]].to_netcdf(folder / "classic.nc", format="NETCDF3_CLASSIC")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("netcdf")
    _files(path)
    for name in ("rain", "classic"):
        by_kerchunk(path / f"{name}.nc", path / f"{name}_kerchunk.json")
    by_virtualizarr(path / "rain.nc").vz.to_kerchunk(str(path / "rain_virtualizarr.json"), format="json")
    return path


@pytest.fixture
def own(folder: Path, tmp_path: Path) -> Path:
    """References to a file that a test may damage, by a path that is relative to their folder."""
    shutil.copy(folder / "rain.nc", tmp_path / "rain.nc")
    return by_kerchunk(tmp_path / "rain.nc", tmp_path / "refs.json", relative=True)


@pytest.mark.parametrize("name", ["rain_kerchunk", "rain_virtualizarr", "classic_kerchunk"])
def test_values_and_labels_are_those_of_the_files(name: str, folder: Path) -> None:
    opened = open_source(folder / f"{name}.json")
    files = open_source(folder / f"{name.partition('_')[0]}.nc")
    assert set(opened.data_vars) == set(files.data_vars)
    for label in (*files.data_vars, *files.coords):
        np.testing.assert_array_equal(opened[label].values, files[label].values, strict=True)
    assert opened["contiguous"].attrs == files["contiguous"].attrs


@pytest.mark.parametrize("name", ["rain_kerchunk", "rain_virtualizarr"])
@pytest.mark.parametrize("variable", ["chunked", "packed", "contiguous", "count", "byte"])
def test_batches_are_those_of_the_files(name: str, variable: str, folder: Path) -> None:
    how: dict[str, Any] = {"variables": [variable], "crop": 8, "seed": 3, "in_memory": False}
    ours = SequenceDataset(folder / f"{name}.json", 3, 2, **how)
    theirs = SequenceDataset(folder / "rain.nc", 3, 2, **how)
    assert isinstance(ours._reader.blocks[0], ZarrBlocks)  # type: ignore[attr-defined]
    assert len(ours) == len(theirs) == FRAMES - 4

    def content(dataset: SequenceDataset) -> list[bytes]:
        """Of each window by its number: the order follows the chunks."""
        return sorted(window.numpy().tobytes() for batch in loader(dataset, 4) for window in batch)

    how |= {"shuffle": False, "crop": None}
    assert content(SequenceDataset(folder / f"{name}.json", 3, 2, **how)) == content(
        SequenceDataset(folder / "rain.nc", 3, 2, **how)
    )


def test_an_epoch_copies_nothing_and_decodes_each_chunk_once(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, decoded = Counter[str](), Counter[str]()
    part, decode = ReferenceStore.part, numcodecs.zlib.Zlib.decode

    def counting_part(self: ReferenceStore, key: str) -> memoryview:
        read[key] += 1
        return part(self, key)

    def counting_decode(self: Any, buf: Any, out: Any = None) -> Any:
        decoded["chunk"] += 1
        return decode(self, buf, out)

    dataset = SequenceDataset(own, 3, 2, variables=["chunked"], in_memory=False, shuffle=False)
    assert isinstance(dataset._reader.blocks[0], ZarrBlocks)  # type: ignore[attr-defined]
    before = sorted((p.name, p.stat().st_size) for p in own.parent.iterdir())
    monkeypatch.setattr(ReferenceStore, "part", counting_part)
    monkeypatch.setattr(numcodecs.zlib.Zlib, "decode", counting_decode)
    for _ in loader(dataset, 4):
        pass
    assert read == {f"chunked/{i}.0.0": 1 for i in range(FRAMES // 2)}
    assert decoded["chunk"] == FRAMES // 2
    assert sorted((p.name, p.stat().st_size) for p in own.parent.iterdir()) == before


def test_a_variable_that_is_not_chunked_is_read_a_frame_at_a_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(references, "LARGEST_PART", 1000)
    opened = open_source(folder / "classic_kerchunk.json")["contiguous"]
    assert opened.encoding["chunks"] == (1, 24, 20)
    np.testing.assert_array_equal(opened, open_source(folder / "classic.nc")["contiguous"])


def test_references_and_files_in_a_bucket_are_read_where_they_are(own: Path, s3: ObjectServer) -> None:
    s3.put(own.parent / "rain.nc", "data", "netcdf/rain.nc")
    relative = s3.put(own, "data", "netcdf/refs.json")
    absolute = own.with_name("absolute.json")
    absolute.write_text(own.read_text().replace('"rain.nc"', '"s3://data/netcdf/rain.nc"'))
    here = open_source(own)
    for place in (relative, str(absolute), s3.put(absolute, "data", "elsewhere.json")):
        there = open_source(place)
        assert there.identical(here)
        again: xr.Dataset = pickle.loads(pickle.dumps(open_source(place)))  # noqa: S301
        assert again.identical(here)
    s3.set()
    dataset = SequenceDataset(relative, 3, 2, variables=["chunked"], in_memory=False, shuffle=False)
    assert dataset._reader.blocks[0].far  # type: ignore[attr-defined]
    s3.set()
    for _ in loader(dataset, 4):
        pass
    assert s3.reads() == {"/data/netcdf/rain.nc": FRAMES // 2}


def test_whole_files_plain_values_and_templates_are_known(tmp_path: Path) -> None:
    (tmp_path / "frame.bin").write_bytes(np.arange(6, dtype="<f4").tobytes())
    array = {
        "zarr_format": 2, "shape": [2, 2, 3], "chunks": [1, 2, 3], "dtype": "<f4", "order": "C",
        "fill_value": None, "filters": None, "compressor": None,
    }  # fmt: skip
    refs = {
        ".zgroup": {"zarr_format": 2},
        "rain/.zarray": array,
        "rain/.zattrs": {"_ARRAY_DIMENSIONS": ["time", "y", "x"], "units": "mm h-1"},
        "rain/0.0.0": ["{{u}}/frame.bin"],
        "rain/1.0.0": "base64:" + "A" * 32,
    }
    document = {"version": 1, "templates": {"u": f"file://{tmp_path}"}, "refs": refs}
    (tmp_path / "refs.json").write_text(json.dumps(document))
    values = open_source(tmp_path / "refs.json", engine="kerchunk")["rain"].values
    np.testing.assert_array_equal(values, [[[0, 1, 2], [3, 4, 5]], np.zeros((2, 3))])
    del refs["rain/1.0.0"]
    (tmp_path / "refs.json").write_text(json.dumps(refs))  # without a version, as the first ones were
    refs["rain/0.0.0"] = ["frame.bin", 0, 24]
    (tmp_path / "refs.json").write_text(json.dumps(refs))
    with pytest.raises(DataError, match=r"the chunk 1\.0\.0 is not referred to, and the array has no fill value"):
        open_source(tmp_path / "refs.json")["rain"].load()


def _missing(own: Path) -> None:
    (own.parent / "rain.nc").unlink()


def _shrunken(own: Path) -> None:
    os.truncate(own.parent / "rain.nc", 2000)


@pytest.mark.parametrize(
    ("harm", "words"),
    [(_missing, "no such file, which the references in .*refs.json name"), (_shrunken, "of 1[0-9]+ that the referen")],
)
def test_a_file_that_is_gone_or_shrank_is_named(harm: Callable[[Path], None], words: str, own: Path) -> None:
    harm(own)
    opened = open_source(own)
    with pytest.raises(DataError, match=words) as caught:
        opened["chunked"].load()
    assert str(own.parent / "rain.nc") in str(caught.value)
    dataset = SequenceDataset(opened, 3, 2, variables=["chunked"], in_memory=False)
    with pytest.raises(DataError, match=words):
        next(iter(loader(dataset, 2)))


def test_a_file_that_changes_under_way_is_named(own: Path) -> None:
    opened = open_source(own)
    opened["chunked"][0].load()
    with (own.parent / "rain.nc").open("ab") as file:
        file.write(b"more")
    with pytest.raises(DataError, match=r"rain\.nc: was changed since it was opened"):
        opened["chunked"][-1].load()


def test_references_that_change_are_known_in_another_process(own: Path) -> None:
    sent = pickle.dumps(open_source(own))
    own.write_text(own.read_text() + " ")
    with pytest.raises(DataError, match=r"refs\.json: was changed since it was opened"):
        pickle.loads(sent)  # noqa: S301


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "no references to chunks"),
        ('{"a": 1}', "no references to chunks (no Zarr metadata)"),
        ('{"refs": {".zgroup": "{}"}, "gen": []}', "as expressions (gen)"),
        ('{"refs": {".zgroup": "{}", "a/0": ["{{f(1)}}", 0, 1]}}', "holds an expression"),
        ('{".zgroup": "{}", "a/0": ["x", "y", 1]}', "the reference of a/0 is damaged"),
        ('{".zgroup": "{}", "a/0": "base64:?"}', "the reference of a/0 is damaged"),
        ('[".zgroup"]', "no references to chunks"),
        ('{"refs": [".zgroup"]}', "no references to chunks"),
        ('{".zgroup": "{}", "a/.zarray": "{"}', "the reference of a/.zarray is damaged"),
        ('{".zgroup": "{}", "a/.zarray": {"shape": [2]}}', "the reference of a/.zarray is damaged"),
        ('{".zgroup": "{}", "a/.zarray": {"shape": [], "chunks": [1]}}', "the reference of a/.zarray is damaged"),
        ('{".zgroup": "{}", "a/.zattrs": "[]"}', "the reference of a/.zattrs is damaged"),
        ('{".zgroup": "{}", "a/0": ["ftp://x/y", 0, 1]}', "addresses that begin with ftp:// are not read"),
    ],
)
def test_what_is_no_reference_is_one_line(content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "refs.json").write_text(content)
    with pytest.raises(SaNowcastError, match=re.escape(words)) as caught:
        open_source(tmp_path / "refs.json")
    assert "\n" not in str(caught.value)


def test_references_in_a_bucket_do_not_reach_into_this_machine(own: Path, s3: ObjectServer) -> None:
    own.write_text(own.read_text().replace('"rain.nc"', '"/etc/hostname"'))
    with pytest.raises(DataError, match=r"refers to a file of this machine \(.*/etc/hostname\)"):
        open_source(s3.put(own, "data", "spy.json"))


def test_references_in_parquet_are_refused_and_not_read_as_fill_values(own: Path, tmp_path: Path) -> None:
    # As `kerchunk.df.refs_to_dataframe` lays them out, which needs one more library to write what is in them.
    refs = json.loads(own.read_text())["refs"]
    metadata = {k: json.loads(v) for k, v in refs.items() if k.rpartition("/")[2].startswith(".z")}
    (tmp_path / "named/chunked").mkdir(parents=True)
    (tmp_path / "named/.zmetadata").write_text(json.dumps({"metadata": metadata, "record_size": 100}))
    (tmp_path / "named/chunked/refs.0.parq").write_bytes(b"PAR1")
    for open_it in (open_source, lambda path: SequenceDataset(path, 3, 2, variables=["chunked"])):
        with pytest.raises(DataError, match="references in Parquet files are not read"):
            open_it(tmp_path / "named")


def test_an_option_that_is_not_known_is_one_line(own: Path) -> None:
    with pytest.raises(RecipeError, match="'grup' is not known to engine kerchunk, expected 'group'"):
        open_source(own, grup="a")


def test_references_convert_and_forecast(own: Path, tmp_path: Path) -> None:
    sa_nowcast.convert(own, tmp_path / "rain.zarr", variables=["packed"])
    converted = sa_nowcast.open_zarr(tmp_path / "rain.zarr")["packed"]
    np.testing.assert_array_equal(converted, open_source(own.parent / "rain.nc")["packed"])
    forecast = hindcast(open_source(own)["chunked"], "persistence", 2)
    assert forecast.sizes["init_time"] == FRAMES


def test_a_recipe_and_a_conversion_know_the_files_behind_references_again(own: Path) -> None:
    before, known = stamp(own), data_identity(str(own), {})
    assert before is not None
    assert (stamp(own), data_identity(str(own), {})) == (before, known)
    with (own.parent / "rain.nc").open("ab") as file:
        file.write(b"more")
    assert stamp(own) != before
    assert data_identity(str(own), known)["identity"] != known["identity"]
