"""Files of datasets, downloads and stores."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import shutil
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from sequences import rain

from remedies.trial import assert_installs, keywords, remedy, uninstalled, value, without_privileges

sys.path.insert(0, str(Path(__file__).parents[1] / "sources"))
from source_files import digit_folder, taxibj_stamps, write_taxibj

from sa_nowcast import open_zarr
from sa_nowcast.conversion import convert
from sa_nowcast.errors import Interrupted
from sa_nowcast.sources import chain, fetch, open_kth, open_source, open_taxibj
from sa_nowcast.sources import download as downloads
from sa_nowcast.sources.arrays import open_array
from sa_nowcast.sources.download import RemoteFile, fetch_file
from sa_nowcast.sources.film import open_film
from sa_nowcast.sources.idx import read_digits
from sa_nowcast.sources.reading import require
from sa_nowcast.sources.taxibj_split import benchmark_split
from sa_nowcast.storage.manifest import MANIFEST

av = pytest.importorskip("av", reason="films need PyAV: pip install av")
ARRAY = {"start": "2020-01-01", "step": "30min", "dims": ("time", "y", "x")}


# --- arrays


@pytest.fixture
def array(tmp_path: Path) -> Path:
    np.save(tmp_path / "a.npy", np.zeros((5, 4, 3)))
    return tmp_path / "a.npy"


@remedy("sources/arrays.py", "give dims=, one name for each axis")
def test_an_array_of_other_dimensions(array):
    yield lambda: open_array(array, **{**ARRAY, "dims": ("time", "channel", "y", "x")})
    yield lambda: open_array(array, **{**ARRAY, "dims": ("time", "y", "x")})


@remedy("sources/arrays.py", "give key=…")
def test_a_file_of_several_arrays(tmp_path):
    np.savez(tmp_path / "a.npz", one=np.zeros((5, 4, 3)), other=np.ones((5, 4, 3)))
    fix = yield lambda: open_array(tmp_path / "a.npz", **ARRAY)
    yield lambda: open_array(tmp_path / "a.npz", **ARRAY, **keywords(fix))


@remedy("sources/arrays.py", "open each on its own")
def test_several_files_of_arrays(array, tmp_path):
    shutil.copy(array, tmp_path / "b.npy")
    yield lambda: open_array(str(tmp_path / "*.npy"), **ARRAY)
    yield lambda: [open_array(tmp_path / name, **ARRAY) for name in ("a.npy", "b.npy")]


@remedy("sources/reading.py", "open it again")
def test_an_array_that_was_changed_since(array):
    opened = open_array(array, **ARRAY)
    np.save(array, np.zeros((7, 4, 3)))
    yield lambda: opened.load()
    yield lambda: open_array(array, **ARRAY).load()


@remedy("sources/reading.py", "save it again as an array of numbers")
def test_an_array_of_objects(array):
    np.save(array, np.array([[[1, 2.0]]] * 3, dtype=object), allow_pickle=True)
    yield lambda: open_array(array, **ARRAY)
    np.save(array, np.load(array, allow_pickle=True).astype(float))  # by who wrote it


@remedy("sources/reading.py", "download it again")
def test_an_array_that_was_cut_short(array, tmp_path):
    whole = array.read_bytes()
    array.write_bytes(whole[:100])
    yield lambda: open_array(array, **ARRAY)
    array.write_bytes(whole)


@remedy("sources/reading.py", "replace the file by a whole one, leave it out, or give the right engine=")
@pytest.mark.parametrize("how", ["replace", "leave out", "engine"])
def test_a_file_that_cannot_be_read(how, tmp_path):
    files = [tmp_path / f"{i}.h5" for i in range(2)]
    for i, file in enumerate(files):
        rain(4).isel(time=slice(2 * i, 2 * i + 2)).to_netcdf(file, engine="h5netcdf")
    whole = files[1].read_bytes()
    if how == "engine":
        yield lambda: open_source(files, engine="taxibj")
        yield lambda: open_source(files, engine="h5netcdf")
    else:
        files[1].write_bytes(whole[: len(whole) // 2])
        yield lambda: open_source(files, engine="h5netcdf").load()
        if how == "replace":
            files[1].write_bytes(whole)
        yield lambda: open_source(files if how == "replace" else files[:1], engine="h5netcdf").load()


@remedy("computing/installing.py", "… …")
def test_a_library_that_is_not_installed(monkeypatch):
    def call():
        with uninstalled(monkeypatch, "rasterio"):
            require("rasterio", "geotiff")

    fix = yield call
    assert_installs(fix, "rasterio")
    yield lambda: require("rasterio", "geotiff")


# --- sequences and films


@remedy("sources/chain.py", "da.to_dataset(name=…)")
def test_a_data_array_of_sequences():
    da = xr.DataArray(np.zeros((2, 3, 4, 4)), dims=("sequence", "time", "y", "x"), name="frames")
    da = da.assign_coords(time=np.arange("2020-01-01", "2020-01-04", dtype="datetime64[D]"))
    fix = yield lambda: chain(da)
    yield lambda: chain(value(fix, da=da))


def _film(path: Path, frames: int, size: int = 64) -> Path:
    with av.open(str(path), "w", format="avi") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "gray"
        for number in range(frames):
            image = np.full((120, 160), number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="gray")))
        container.mux(stream.encode())
    return path


@remedy("sources/film.py", "name the file")
def test_several_films(tmp_path):
    for name in ("a.avi", "b.avi"):
        _film(tmp_path / name, 3)
    yield lambda: open_film(str(tmp_path / "*.avi"))
    yield lambda: open_film(tmp_path / "a.avi")


@remedy("sources/film.py", "write it into the file, as ffmpeg -r does")
def test_a_film_without_a_frame_rate(tmp_path):
    def write(container_format: str, codec: str) -> None:
        with av.open(str(tmp_path / "a.mp4"), "w", format=container_format) as container:
            stream = container.add_stream(codec, rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            image = av.VideoFrame.from_ndarray(np.zeros((48, 64), np.uint8), format="gray")
            container.mux([*stream.encode(image), *stream.encode()])

    write("mpeg", "mpeg1video")
    yield lambda: open_film(tmp_path / "a.mp4")
    write("mp4", "mpeg4")


@pytest.fixture
def films(tmp_path: Path) -> Path:
    _film(tmp_path / "person01_boxing_d1_uncomp.avi", 30)
    (tmp_path / "segments.txt").write_text("person01_boxing_d1\t\tframes\t1-25\n")
    return tmp_path


def _kth(folder: Path, **options):
    return open_kth(sorted(folder.glob("*.avi")), **{"length": 10, "segments": folder / "segments.txt", **options})


@remedy("sources/kth.py", "a smaller length, or other films")
@pytest.mark.parametrize("how", ["length", "films"])
def test_films_with_too_short_segments(how, films):
    yield lambda: _kth(films, length=28)
    if how == "films":
        _film(films / "person02_boxing_d1_uncomp.avi", 40)
        (films / "segments.txt").write_text("person01_boxing_d1\tframes\t1-25\nperson02_boxing_d1\tframes\t1-40\n")
    yield lambda: _kth(films, length=10 if how == "length" else 28)


@remedy("sources/kth.py", "leave the film out, or give segments=")
@pytest.mark.parametrize("how", ["leave out", "segments"])
def test_a_film_without_segments(how, films):
    other = _film(films / "person99_boxing_d1_uncomp.avi", 30)
    yield lambda: _kth(films)
    if how == "leave out":
        other.unlink()
        yield lambda: _kth(films)
    else:
        (films / "mine.txt").write_text("person01_boxing_d1\tframes\t1-25\nperson99_boxing_d1\tframes\t1-25\n")
        yield lambda: _kth(films, segments=films / "mine.txt")


@remedy("sources/kth.py", "download it again", "download it again, or leave it out")
@pytest.mark.parametrize("how", ["cut short", "damaged", "leave out"])
def test_a_film_that_was_not_downloaded_whole(how, films):
    file = next(films.glob("*.avi"))
    whole = file.read_bytes()
    opened = _kth(films)
    if how == "cut short":
        _film(file, 12)  # the film that was opened had more frames
        yield lambda: opened.load()
    else:
        file.write_bytes(b"no film")
        yield lambda: _kth(films)
    file.write_bytes(whole)
    if how == "leave out":
        file.rename(films / "damaged")
        _film(films / "person01_boxing_d1_uncomp.avi", 30)
    yield lambda: _kth(films).load()


# --- digits, downloads


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    return digit_folder(tmp_path / "digits")


@pytest.fixture
def server(tmp_path: Path):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    folder = tmp_path / "served"
    folder.mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}", folder
        running.shutdown()
        thread.join()


def _remote(server, name: str, content: bytes, *, served: bool = True) -> RemoteFile:
    url, folder = server
    if served:
        (folder / name).write_bytes(content)
    return RemoteFile(f"{url}/{name}", "sha256:" + hashlib.sha256(content).hexdigest())


@remedy("sources/idx.py", 'sa_nowcast.sources.fetch("mnist", folder) downloads them')
def test_digits_that_are_not_there(digits, server, tmp_path, monkeypatch):
    files = [_remote(server, file.name, file.read_bytes()) for file in digits.iterdir()]
    monkeypatch.setitem(downloads.PUBLIC, "mnist", tuple(files))
    folder = tmp_path / "mnist"
    folder.mkdir()
    fix = yield lambda: read_digits(folder, "train", check_hash=False)
    value(fix, folder=folder)


@remedy("sources/idx.py", "download it again")
@pytest.mark.parametrize("damage", ["cut short", "not packed"])
def test_damaged_digits(damage, digits):
    part = "test" if damage == "cut short" else "train"
    file = digits / ("t10k-images-idx3-ubyte" if part == "test" else "train-images-idx3-ubyte.gz")
    whole = file.read_bytes()
    file.write_bytes(whole[:-40])
    yield lambda: read_digits(digits, part, check_hash=False)
    file.write_bytes(whole)


@remedy("sources/idx.py", "download it, or check_hash=False")
def test_other_digits_than_those_of_mnist(digits):
    """The other remedy is the download of the real digits, which tests of real data make."""
    fix = yield lambda: read_digits(digits, "train")
    yield lambda: read_digits(digits, "train", **keywords(fix))


@remedy("sources/download.py", "get the files, then open them with engine='taxibj'")
def test_data_that_are_not_public(tmp_path):
    fix = yield lambda: fetch("taxibj", tmp_path)
    write_taxibj(tmp_path / "BJ13_M32x32_T30_InOut.h5", taxibj_stamps("2013-07-01", 2))
    yield lambda: open_source(tmp_path / "BJ13_M32x32_T30_InOut.h5", **keywords(fix))


@remedy("sources/download.py", "try again")
def test_a_download_with_another_hash(server, tmp_path):
    file = _remote(server, "a.bin", b"right")
    (server[1] / "a.bin").write_bytes(b"wrong")
    yield lambda: fetch_file(file, tmp_path / "here")
    (server[1] / "a.bin").write_bytes(b"right")


@remedy("sources/download.py", "try again when the server answers")
def test_a_server_that_does_not_answer(server, tmp_path):
    file = _remote(server, "a.bin", b"right", served=False)
    yield lambda: fetch_file(file, tmp_path / "here")
    (server[1] / "a.bin").write_bytes(b"right")


@remedy("sources/download.py", "make room, give the right to write there, or name another folder")
@pytest.mark.parametrize("how", ["right", "folder"])
def test_a_folder_that_cannot_be_written(how, server, tmp_path):
    file = _remote(server, "a.bin", b"right")
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)

    def call(folder):
        with without_privileges():
            fetch_file(file, folder)

    yield lambda: call(locked / "below")
    locked.chmod(0o700)
    yield lambda: call(locked / "below" if how == "right" else tmp_path / "other")


# --- TaxiBJ


@remedy("sources/paths.py", "leave one of them out")
def test_a_time_in_two_years(tmp_path):
    write_taxibj(tmp_path / "BJ13_M32x32_T30_InOut.h5", taxibj_stamps("2013-07-01", 2))
    other = tmp_path / "BJ14_M32x32_T30_InOut.h5"
    write_taxibj(other, taxibj_stamps("2013-07-02", 2))
    yield lambda: open_taxibj(tmp_path)
    other.unlink()


@remedy("sources/taxibj.py", "download it again")
def test_a_year_that_says_it_holds_more_than_it_has(tmp_path):
    import h5py

    file = tmp_path / "BJ13_M32x32_T30_InOut.h5"
    with h5py.File(file, "w") as opened:
        opened.create_dataset("data", (10**7, 2, 32, 32), chunks=(1, 2, 32, 32), dtype="f8")
        opened["date"] = taxibj_stamps("2013-07-01", 2)
    yield lambda: open_taxibj(file)
    file.unlink()
    write_taxibj(file, taxibj_stamps("2013-07-01", 2))


@remedy("sources/taxibj_split.py", "open more years, or use a split of your own")
@pytest.mark.parametrize("how", ["years", "split"])
def test_too_few_days_for_the_benchmark(how):
    times = np.arange("2013-07-01", "2013-07-05", np.timedelta64(30, "m"), dtype="datetime64[m]").astype("M8[ns]")
    yield lambda: benchmark_split(times, np.full(len(times), 13))
    if how == "years":
        more = np.arange("2013-07-01", "2013-08-05", np.timedelta64(30, "m"), dtype="datetime64[m]").astype("M8[ns]")
        yield lambda: benchmark_split(more, np.full(len(more), 13))
    else:
        yield lambda: benchmark_split(times, np.full(len(times), 13), test_windows=48)


# --- stores


@pytest.fixture
def store(tmp_path: Path) -> Path:
    convert(rain(12), tmp_path / "a.zarr", frames_per_shard=4)
    return tmp_path / "a.zarr"


def _load(store: Path, **options):
    return open_zarr(store, **options).load()


def _shard(store: Path) -> Path:
    return sorted(f for f in (store / "rain" / "c").rglob("*") if f.is_file())[0]


@remedy("sources/store.py", "convert the source again, or copy the file again; check='mark' reads what is sound")
@pytest.mark.parametrize("how", ["convert", "copy", "mark"])
def test_a_damaged_chunk(how, store):
    whole = _shard(store).read_bytes()
    _shard(store).write_bytes(whole[:10] + b"damaged" + whole[17:])
    fix = yield lambda: _load(store)
    if how == "mark":
        yield lambda: open_zarr(store, **keywords(fix)).isel(time=slice(4, None)).load()
    elif how == "copy":
        _shard(store).write_bytes(whole)
    else:
        convert(rain(12), store, frames_per_shard=4, existing="replace")


@remedy(
    "storage/manifest.py",
    "convert or hindcast again, or copy the store again; check='mark' reads it unchecked",
)
@pytest.mark.parametrize("how", ["convert", "copy", "mark"])
def test_a_store_without_the_list_of_its_files(how, store, tmp_path):
    shutil.copytree(store, tmp_path / "elsewhere")
    shutil.rmtree(store / MANIFEST)
    fix = yield lambda: _load(store)
    if how == "mark":
        yield lambda: _load(store, **keywords(fix))
    elif how == "copy":
        shutil.rmtree(store)
        shutil.copytree(tmp_path / "elsewhere", store)
    else:
        convert(rain(12), store, frames_per_shard=4, existing="replace")


@remedy("storage/manifest.py", "copy the store again")
def test_damaged_metadata_of_a_listed_store(store, tmp_path):
    shutil.copytree(store, tmp_path / "elsewhere")
    (store / "rain" / "zarr.json").write_text("{}")
    yield lambda: _load(store)
    shutil.rmtree(store)
    shutil.copytree(tmp_path / "elsewhere", store)


@remedy("sources/store.py", "copy the store again")
@pytest.mark.parametrize("damage", ["an array", "its dimensions"])
def test_damaged_metadata(damage, store, tmp_path):
    shutil.copytree(store, tmp_path / "elsewhere")
    file = store / "rain" / "zarr.json"
    content = json.loads(file.read_text())
    if damage == "an array":
        content["shape"] = "many"
    else:
        content["dimension_names"] = ["time"]
    file.write_text(json.dumps(content))
    group = json.loads((store / "zarr.json").read_text())
    group.pop("consolidated_metadata", None)
    (store / "zarr.json").write_text(json.dumps(group))
    yield lambda: _load(store, check="mark")
    shutil.rmtree(store)
    shutil.copytree(tmp_path / "elsewhere", store)


@remedy("sources/store.py", "read again, or copy the store to another disk")
@pytest.mark.parametrize("how", ["again", "copy"])
def test_a_disk_that_fails_now_and_then(how, store, tmp_path, monkeypatch):
    """The first read of the shard fails; the search for the chunk that is damaged finds none."""
    read, failed = zarr.storage._local._get, []

    def wrong(path, prototype, byte_range):
        if not failed and {"rain", "c"} <= set(path.parts) and "other" not in path.parts:
            failed.append(path)
            raise OSError(5, "Input/output error")
        return read(path, prototype, byte_range)

    monkeypatch.setattr(zarr.storage._local, "_get", wrong)
    yield lambda: _load(store, check="mark")
    if how == "copy":
        failed.clear()
        shutil.copytree(store, tmp_path / "other" / "a.zarr")
        yield lambda: _load(tmp_path / "other" / "a.zarr", check="mark")


@remedy("sources/store.py", "run the same convert again to go on")
@pytest.mark.parametrize("opened", ["a.zarr", "a.zarr.partial"])
def test_a_conversion_that_did_not_end(opened, tmp_path):
    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        convert(rain(12), tmp_path / "a.zarr", frames_per_shard=2, workers=1, progress=stop)
    yield lambda: _load(tmp_path / opened)
    convert(rain(12), tmp_path / "a.zarr", frames_per_shard=2)
    yield lambda: _load(tmp_path / "a.zarr")


@remedy("sources/store.py", "convert it, or check='nothing' for stores that others wrote")
@pytest.mark.parametrize("how", ["convert", "nothing"])
def test_a_store_of_another_tool(how, tmp_path):
    rain(12).to_dataset().to_zarr(tmp_path / "a.zarr", zarr_format=3, consolidated=False)
    fix = yield lambda: _load(tmp_path / "a.zarr")
    if how == "nothing":
        yield lambda: _load(tmp_path / "a.zarr", **keywords(fix))
    else:
        convert(tmp_path / "a.zarr", tmp_path / "b.zarr", engine="zarr")
        yield lambda: _load(tmp_path / "b.zarr")


@remedy("sources/store.py", "read less")
def test_an_array_beyond_memory(tmp_path):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    array = group.create_array(
        "rain", shape=(50_000, 4000, 4000), chunks=(1, 4000, 4000), shards=(50_000, 4000, 4000), dtype="f8",
        dimension_names=("time", "y", "x"),
    )  # fmt: skip
    array[0, 0, 0] = 1.0
    yield lambda: open_zarr(tmp_path / "a.zarr", check="nothing")["rain"].values
    yield lambda: open_zarr(tmp_path / "a.zarr", check="nothing")["rain"][0, :2, :2].values
