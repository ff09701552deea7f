"""References to chunks, and Icechunk repositories."""

from __future__ import annotations

import json
import shutil

import netCDF4
import numpy as np
import pytest
from sequences import rain
from virtual import by_kerchunk, by_virtualizarr, committed, with_references

from remedies.trial import remedy, without_privileges
from sa_nowcast.hindcast import hindcast
from sa_nowcast.sources import open_source
from sa_nowcast.storage.references import ReferenceStore

REFERENCES = "storage/references.py"
REPOSITORIES = "storage/repositories.py"
COMMITTED = "hindcast/committed.py"
pytestmark = pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr")


def _load(place, **options):
    return open_source(place, **options)["rain"].load()


@pytest.fixture
def refs(tmp_path):
    encoding = {"rain": {"_FillValue": np.float32(-1), "zlib": True, "chunksizes": (1, 24, 20)}}
    rain(6).to_netcdf(tmp_path / "rain.nc", encoding=encoding)
    return by_kerchunk(tmp_path / "rain.nc", relative=True)


@pytest.fixture
def repository(tmp_path):
    committed(tmp_path / "rain.icechunk", rain(6), "first")
    return tmp_path / "rain.icechunk"


@remedy(REFERENCES, "copy the references to this machine where they are to be followed")
def test_references_in_a_bucket_to_a_file_here(refs, s3):
    by_kerchunk(refs.with_suffix(".nc"), refs)
    address = s3.put(refs, "data", "refs.json")
    yield lambda: _load(address)
    yield lambda: _load(refs)


@remedy(REFERENCES, "declare a _FillValue in the files before the references are made")
def test_a_chunk_that_was_never_written(tmp_path):
    def write(fill):
        with netCDF4.Dataset(tmp_path / "rain.nc", "w") as file:
            for name, values in (("time", np.arange(6.0)), ("y", np.arange(24.0)), ("x", np.arange(20.0))):
                file.createDimension(name, len(values))
                file.createVariable(name, "f8", (name,))[:] = values
            file["time"].units = "minutes since 2020-01-01"
            chunks = {"zlib": True, "chunksizes": (1, 24, 20), "fill_value": fill}
            variable = file.createVariable("rain", "f4", ("time", "y", "x"), **chunks)
            variable[:2], variable[5] = 1.0, 2.0
        return by_kerchunk(tmp_path / "rain.nc")

    place = write(None)
    yield lambda: _load(place)
    write(-1.0)


@remedy(REFERENCES, "give the right to read it")
def test_a_file_that_may_not_be_read(refs):
    refs.with_suffix(".nc").chmod(0)

    def read():
        with without_privileges():  # of this thread, and zarr reads in others
            ReferenceStore(str(refs)).part("rain/0.0.0")

    yield read
    refs.with_suffix(".nc").chmod(0o444)


@remedy(REFERENCES, "make the references again from the files as they are")
@pytest.mark.parametrize("how", ["gone", "shorter", "damaged", "bucket"])
def test_references_to_a_file_that_is_another(how, refs, s3):
    file = refs.with_suffix(".nc")
    place = refs
    if how == "damaged":
        refs.write_text(refs.read_text().replace('["rain.nc", ', '["rain.nc", "x", ', 1))
    elif how == "bucket":
        place = s3.put(refs, "data", "alone/refs.json")
    else:
        shutil.move(file, file.with_name("moved.nc"))
        if how == "shorter":
            rain(2).to_netcdf(file)
    yield lambda: _load(place)
    if how == "bucket":
        s3.put(file, "data", "alone/rain.nc")
    else:
        found = file.with_name("moved.nc")
        by_kerchunk(found if found.exists() else file, refs)


@remedy(REFERENCES, "name one that they wrote, or give the engine= that reads the file")
def test_json_that_is_no_references(refs, tmp_path):
    (tmp_path / "notes.json").write_text("{}")
    yield lambda: _load(tmp_path / "notes.json")
    yield lambda: _load(refs)


@remedy(REFERENCES, "name references that are there")
def test_no_references_at_an_address(refs, s3):
    s3.put(refs.with_suffix(".nc"), "data", "rain.nc")
    address = s3.put(refs, "data", "refs.json")
    yield lambda: _load("s3://data/refz.json")
    yield lambda: _load(address)


@remedy(REFERENCES, "open it again")
def test_references_that_changed_on_the_way(refs):
    import pickle

    sent = [pickle.dumps(open_source(refs))]
    refs.write_text(refs.read_text() + " ")
    yield lambda: pickle.loads(sent[0])  # noqa: S301
    sent[0] = pickle.dumps(open_source(refs))


@remedy(REFERENCES, "write them as JSON, in VirtualiZarr by vds.vz.to_kerchunk('refs.json', format='json')")
@pytest.mark.parametrize("how", ["parquet", "gen", "template"])
def test_references_in_a_form_that_is_not_read(how, refs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    document = json.loads(refs.read_text())
    place = tmp_path / "refs.json"
    if how == "parquet":
        place = tmp_path / "refs.parq"
        place.mkdir()
    elif how == "gen":
        place.write_text(json.dumps({**document, "gen": []}))
    else:
        place.write_text(refs.read_text().replace('"rain.nc"', '"{{f(1)}}"'))
    places = iter([place, tmp_path / "refs.json"])
    fix = yield lambda: _load(next(places))
    exec(fix.partition(" by ")[2], {"vds": by_virtualizarr(tmp_path / "rain.nc")})


@remedy(REPOSITORIES, "allow where the chunks lie by virtual=, such as virtual='s3://bucket/' or 'file:///data/'")
def test_references_in_a_repository(refs, tmp_path):
    prefix = with_references(tmp_path / "virtual", refs.with_suffix(".nc"))
    yield lambda: _load(tmp_path / "virtual")
    yield lambda: _load(tmp_path / "virtual", virtual=prefix)


@remedy(REPOSITORIES, "copy the repository again")
def test_a_repository_that_lost_a_chunk(repository, tmp_path):
    shutil.copytree(repository, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy/chunks")
    yield lambda: _load(tmp_path / "copy")
    shutil.copytree(repository, tmp_path / "copy", dirs_exist_ok=True)


@remedy(REPOSITORIES, "write …=…", "leave it out, which opens branch main", "write snapshot=…")
@pytest.mark.parametrize("options", [{"branch": "mian"}, {"tag": "q"}, {"snapshot": "q"}])
def test_a_name_that_is_not_there(options, repository):
    fix = yield lambda: _load(repository, **options)
    again = {} if "leave" in fix else dict([fix.removeprefix("write ").replace("'", "").split("=")])
    yield lambda: _load(repository, **again)


@remedy(REPOSITORIES, "name one, or leave engine= out")
@pytest.mark.parametrize("how", ["name", "leave"])
def test_what_is_no_repository(how, repository, tmp_path):
    rain(6).to_dataset().to_zarr(tmp_path / "rain.zarr")
    yield lambda: _load(tmp_path / "rain.zarr", engine="icechunk")
    yield lambda: _load(repository, engine="icechunk") if how == "name" else _load(tmp_path / "rain.zarr")


@remedy(REPOSITORIES, "name another path")
def test_something_else_where_a_repository_would_be(tmp_path):
    (tmp_path / "a.icechunk").mkdir()
    (tmp_path / "a.icechunk/notes").touch()
    yield lambda: hindcast(rain(6), "persistence", 2, to=tmp_path / "a.icechunk")
    yield lambda: hindcast(rain(6), "persistence", 2, to=tmp_path / "b.icechunk")


@remedy(REPOSITORIES, "let it end, and run again")
def test_another_process_that_commits(tmp_path):
    data, how = rain(12), {"batch_size": 4, "shard_size": 4}

    def interfere(done, total):
        if done == 4:
            import icechunk
            import zarr

            storage = icechunk.local_filesystem_storage(str(tmp_path / "a.icechunk"))
            session = icechunk.Repository.open(storage).writable_session("main")
            zarr.open_group(session.store, mode="r+").attrs["note"] = "theirs"
            session.commit("theirs")

    yield lambda: hindcast(data, "persistence", 2, to=tmp_path / "a.icechunk", progress=interfere, **how)
    yield lambda: hindcast(data, "persistence", 2, to=tmp_path / "a.icechunk", **how)


@remedy(REPOSITORIES, "run it again later")
def test_a_server_that_fails_under_way(repository, s3):
    opened = open_source(s3.put(repository, "data", "rain.icechunk"))
    s3.set(refuse=1)
    yield lambda: opened["rain"].load()
    s3.set(refuse=0)


@remedy(COMMITTED, "give a folder that workers and this process see, such as archive.icechunk, or leave cluster= out")
@pytest.mark.parametrize("how", ["folder", "alone"])
def test_workers_and_a_bucket(how, s3, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    s3._send("PUT", "data")
    data = rain(6)
    yield lambda: hindcast(data, "persistence", 2, to="s3://data/a.icechunk", cluster="tcp://127.0.0.1:9")
    if how == "alone":
        yield lambda: hindcast(data, "persistence", 2, to="s3://data/a.icechunk")
    else:
        from distributed import Client, LocalCluster

        with LocalCluster(n_workers=1, processes=False, dashboard_address=None) as cluster, Client(cluster) as client:
            yield lambda: hindcast(data, "persistence", 2, to=tmp_path / "a.icechunk", cluster=client)


@remedy(COMMITTED, "name another path")
def test_data_where_an_archive_would_be(repository, tmp_path):
    yield lambda: hindcast(rain(6), "persistence", 2, to=repository)
    yield lambda: hindcast(rain(6), "persistence", 2, to=tmp_path / "b.icechunk")


@remedy(COMMITTED, "remove it, or name another path")
@pytest.mark.parametrize("how", ["remove", "name"])
def test_a_folder_where_an_archive_would_grow(how, tmp_path):
    (tmp_path / "a.icechunk.partial").mkdir()
    (tmp_path / "a.icechunk.partial/notes").touch()
    yield lambda: hindcast(rain(6), "persistence", 2, to=tmp_path / "a.icechunk")
    if how == "remove":
        shutil.rmtree(tmp_path / "a.icechunk.partial")
    name = "a" if how == "remove" else "b"
    yield lambda: hindcast(rain(6), "persistence", 2, to=tmp_path / f"{name}.icechunk")


@remedy(COMMITTED, "run the same again to go on")
def test_an_archive_that_was_not_finished(tmp_path):
    def stop(done, total):
        if done == 4:
            raise KeyboardInterrupt

    calls = iter([stop, None])
    how = {"batch_size": 4, "shard_size": 4}
    yield lambda: hindcast(rain(12), "persistence", 2, to=tmp_path / "a.icechunk", progress=next(calls), **how)
