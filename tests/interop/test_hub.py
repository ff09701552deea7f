from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from sequences import rain

import sa_nowcast
from sa_nowcast.errors import ModelError, RecipeError, StorageError
from sa_nowcast.forecasts.nowcaster import Nowcaster
from sa_nowcast.interop import hub

COMMIT, OLDER = "a" * 40, "b" * 40
NOWHERE = "http://127.0.0.1:9"  # the discard port: nothing answers


@pytest.fixture
def cache(nowcaster: Nowcaster, tmp_path: Path) -> Path:
    """What huggingface_hub leaves after a fetch: files once by content, and linked from a folder for each commit."""
    made = hub.prepare_folder(nowcaster, tmp_path / "made")
    repo = tmp_path / "cache" / "models--somebody--rain"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(COMMIT)
    (repo / "blobs").mkdir()
    for commit in (COMMIT, OLDER):
        snapshot = repo / "snapshots" / commit
        snapshot.mkdir(parents=True)
        for i, file in enumerate(sorted(made.iterdir())):
            blob = repo / "blobs" / f"{commit[0]}{i}"
            blob.write_bytes(file.read_bytes())
            (snapshot / file.name).symlink_to(Path("..") / ".." / "blobs" / blob.name)
    return tmp_path / "cache"


def test_a_prepared_folder_is_a_model_with_a_card(nowcaster: Nowcaster, tmp_path: Path) -> None:
    folder = hub.prepare_folder(
        nowcaster, tmp_path / "model", repo_id="somebody/rain", licence="cc-by-4.0", description="Rain over *there*."
    )
    assert sorted(os.listdir(folder)) == ["README.md", "model.json", "weights.safetensors"]
    again = sa_nowcast.load(str(folder))
    assert again.digest == nowcaster.digest
    assert again.forecast(rain()).identical(nowcaster.forecast(rain()))
    card = ModelCard.load(folder / "README.md")
    assert card.data.to_dict() == {
        "license": "cc-by-4.0",
        "library_name": "sa-nowcast",
        "tags": ["nowcasting", "spatiotemporal-forecasting", "convlstm", "xarray", "precipitation"],
    }
    for text in (
        "Rain over *there*.", f"`{nowcaster.digest}`", "4 frames", "mm h-1", 'hub.pull("somebody/rain")', "## Scores",
    ):  # fmt: skip
        assert text in card.text, text
    plain = hub.prepare_folder(nowcaster, tmp_path / "plain") / "README.md"
    assert "license" not in yaml.safe_load(plain.read_text().split("---")[1])


def test_a_folder_is_replaced_only_when_asked_and_only_when_it_is_a_model(
    nowcaster: Nowcaster, traffic_nowcaster: Nowcaster, tmp_path: Path
) -> None:
    folder = hub.prepare_folder(nowcaster, tmp_path / "model")
    with pytest.raises(StorageError, match=r"a model stands there, expected a new path.*overwrite=True"):
        hub.prepare_folder(traffic_nowcaster, folder)
    assert sa_nowcast.load(str(folder)).digest == nowcaster.digest
    hub.prepare_folder(traffic_nowcaster, folder, overwrite=True)
    assert sa_nowcast.load(str(folder)).digest == traffic_nowcaster.digest
    (folder / "notes.txt").write_text("years of work")
    with pytest.raises(StorageError, match="something that is no model stands there"):
        hub.prepare_folder(nowcaster, folder, overwrite=True)
    assert (folder / "notes.txt").read_text() == "years of work"
    assert os.listdir(tmp_path) == ["model"]
    with pytest.raises(StorageError, match="could not be written"):
        hub.prepare_folder(nowcaster, folder / "notes.txt" / "below")


def test_what_was_fetched_before_is_loaded_without_the_network(nowcaster: Nowcaster, cache: Path) -> None:
    expected = nowcaster.forecast(rain())
    for revision in (None, "main", COMMIT, OLDER):
        pulled = hub.pull("somebody/rain", revision=revision, cache_dir=cache, local_files_only=True, endpoint=NOWHERE)
        assert pulled.digest == nowcaster.digest
        assert pulled.forecast(rain()).identical(expected)
    # Without being told to, too, where the hub does not answer.
    assert hub.pull("somebody/rain", cache_dir=cache, endpoint=NOWHERE).digest == nowcaster.digest


def test_an_altered_file_in_the_cache_is_found(cache: Path) -> None:
    weights = cache / "models--somebody--rain" / "snapshots" / COMMIT / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.resolve().write_bytes(data)
    with pytest.raises(ModelError, match="truncated or altered: its SHA-256"):
        hub.pull("somebody/rain", cache_dir=cache, local_files_only=True)
    (cache / "models--somebody--rain" / "snapshots" / OLDER / "model.json").unlink()
    with pytest.raises(ModelError, match=r"somebody/rain: it holds no model\.json"):
        hub.pull("somebody/rain", revision=OLDER, cache_dir=cache, local_files_only=True)


def test_without_a_network_the_reason_is_one_line(nowcaster: Nowcaster, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="somebody/snow: the model was not fetched before") as caught:
        hub.pull("somebody/snow", cache_dir=cache, endpoint=NOWHERE)
    assert "\n" not in str(caught.value)
    with pytest.raises(StorageError, match="not fetched before"):
        hub.pull("somebody/rain", revision="v2", cache_dir=cache, local_files_only=True)
    with pytest.raises(
        StorageError, match="somebody/rain: the model could not be uploaded: the hub cannot be"
    ) as caught:
        hub.push(nowcaster, "somebody/rain", token="hf_none", endpoint=NOWHERE)
    assert "\n" not in str(caught.value)
    with pytest.raises(RecipeError, match="repo_id: 'a/b/c', expected 'user/model'"):
        hub.pull("a/b/c", cache_dir=cache)


def test_the_library_of_the_hub_is_loaded_only_when_it_is_called(nowcaster: Nowcaster, tmp_path: Path) -> None:
    folder = hub.prepare_folder(nowcaster, tmp_path / "model")
    code = (
        "import sys, sa_nowcast; from sa_nowcast.interop import hub; assert 'torch' not in sys.modules; "
        f"n = sa_nowcast.load({str(folder)!r}); hub.prepare_folder(n, {str(tmp_path / 'other')!r}); "
        "print('huggingface_hub' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "False"
