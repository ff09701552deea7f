"""Models to and from a Hugging Face hub, as folders that hold a bundle and a model card.

The network is used by `push` and `pull` alone. What comes from a hub is checked as every bundle is: all bytes against
their SHA-256, and nothing in it is run. The digests prove that nothing was damaged, not who made it.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from sa_nowcast._version import __version__
from sa_nowcast.bundle.card import model_card
from sa_nowcast.bundle.files import CARD, FILES, MODEL, require_free
from sa_nowcast.errors import ModelError, RecipeError, StorageError
from sa_nowcast.metadata import dims
from sa_nowcast.sources.reading import require
from sa_nowcast.storage.whole import partial_beside, put_in_place

if TYPE_CHECKING:
    from sa_nowcast.forecasts.nowcaster import Nowcaster
_LATER = "run the same again when the hub answers"


def prepare_folder(
    nowcaster: Nowcaster,
    folder: str | Path,
    *,
    repo_id: str = "user/model",
    licence: str | None = None,
    description: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Lay out a folder as a hub takes it: the bundle's two files and a model card, ``README.md``.

    Parameters
    ----------
    nowcaster : Nowcaster
    folder : path
        Made whole or not at all.
    repo_id : str
        Named in the card's example.
    licence : str, optional
        Identifier of the hub, such as ``apache-2.0`` or ``cc-by-4.0``. By default the card names none: it depends on
        the data that the model was trained on too.
    description : str, optional
        Text of the card's first paragraph, Markdown.
    overwrite : bool
        Whether a folder that `prepare_folder` made there is replaced.

    Returns
    -------
    Path
        The folder, which `sa_nowcast.load` reads too.

    Raises
    ------
    StorageError
        Something stands there, or it cannot be written.
    """
    target = Path(folder)
    require_free(target, overwrite)
    try:
        with partial_beside(target) as partial:
            nowcaster.save(partial)
            (partial / CARD).write_text(_card(nowcaster, repo_id, licence, description), encoding="utf-8")
            put_in_place(partial, target)
    except OSError as error:
        raise StorageError(
            str(target), f"the model could not be written ({error.strerror or error})", fix="choose another folder"
        ) from error
    return target


def push(
    nowcaster: Nowcaster,
    repo_id: str,
    *,
    revision: str | None = None,
    private: bool = False,
    licence: str | None = None,
    description: str | None = None,
    message: str | None = None,
    token: str | None = None,
    endpoint: str | None = None,
) -> str:
    """Upload a nowcaster with a model card to a hub, and return the address of the commit.

    Parameters
    ----------
    nowcaster : Nowcaster
    repo_id : str
        ``user/model``; made where it does not exist.
    revision : str, optional
        Branch; by default the main one.
    private : bool
        Whether a repository that is made here is private.
    licence, description : str, optional
        As for `prepare_folder`.
    message : str, optional
        Of the commit.
    token : str, optional
        By default the one that ``hf auth login`` stored.
    endpoint : str, optional
        Address of another hub than huggingface.co.

    Raises
    ------
    StorageError, RecipeError, MissingLibraryError
        The hub cannot be reached, or refuses; the name is none of a repository; huggingface_hub is not installed.
    """
    hub = require("huggingface_hub", "hub")
    with tempfile.TemporaryDirectory() as folder, _one_line(repo_id, "uploaded"):
        made = prepare_folder(
            nowcaster, Path(folder) / "model", repo_id=repo_id, licence=licence, description=description
        )
        api = hub.HfApi(endpoint=endpoint, token=token, library_name="sa_nowcast", library_version=__version__)
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=made,
            revision=revision,
            commit_message=message or f"sa_nowcast model {nowcaster.digest[:12]}",
        )
    return str(commit.commit_url)


def pull(
    repo_id: str,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_dir: str | Path | None = None,
    local_files_only: bool = False,
    token: str | None = None,
    endpoint: str | None = None,
) -> Nowcaster:
    """Fetch a nowcaster from a hub, or from what was fetched before, and check it.

    Parameters
    ----------
    repo_id : str
        ``user/model``.
    revision : str, optional
        Branch, tag or commit; by default the main branch. A commit makes a run repeatable.
    cache_dir : path, optional
        By default that of huggingface_hub.
    local_dir : path, optional
        A folder of your own to fetch into, in place of the cache.
    local_files_only : bool
        Use no network: what was fetched before, or an error.
    token, endpoint : str, optional
        As for `push`.

    Raises
    ------
    ModelError
        What came is no model, one of a newer format, or one that was truncated or altered.
    StorageError, RecipeError, MissingLibraryError
        As for `push`; or the hub has no such model.
    """
    from sa_nowcast.forecasts.nowcaster import Nowcaster

    hub = require("huggingface_hub", "hub")
    with _one_line(repo_id, "fetched"):
        folder = hub.snapshot_download(
            repo_id,
            revision=revision,
            cache_dir=cache_dir,
            local_dir=local_dir,
            local_files_only=local_files_only,
            allow_patterns=list(FILES),
            library_name="sa_nowcast",
            library_version=__version__,
            token=token,
            endpoint=endpoint,
        )
    if not (Path(folder) / MODEL).is_file():
        raise ModelError(repo_id, f"it holds no {MODEL}", expected="a model that sa_nowcast.interop.hub.push uploaded")
    return Nowcaster.load(folder)


def _card(nowcaster: Nowcaster, repo_id: str, licence: str | None, description: str | None) -> str:
    """Return the model's card with what a hub reads above it, and how to fetch it below."""
    head: dict[str, Any] = {
        **({"license": licence} if licence else {}),
        "library_name": "sa-nowcast",
        "tags": ["nowcasting", "spatiotemporal-forecasting", "convlstm", "xarray"]
        + (["precipitation"] if any(dims.is_rain({"units": units}) for _, units in nowcaster.terms.channels) else []),
    }
    title, _, rest = (nowcaster.card or model_card(nowcaster)).partition("\n")
    body = f"\n{description}\n{rest}" if description else rest
    return f"""---
{yaml.safe_dump(head, sort_keys=False, allow_unicode=True).strip()}
---

{title}
{body}
## From the hub

```python
import sa_nowcast

nowcaster = sa_nowcast.interop.hub.pull("{repo_id}")
forecast = nowcaster.forecast(ds)  # ds: an xarray Dataset with the last {nowcaster.terms.history} frames
```

Digest (SHA-256): `{nowcaster.digest}`. Loading runs no code and checks every byte against it, which proves that nothing
was damaged, not who made it.
"""


@contextlib.contextmanager
def _one_line(repo_id: str, done: str) -> Iterator[None]:
    """Turn what huggingface_hub and its network library raise into one line."""
    errors = require("huggingface_hub.errors", "hub")  # which importing the library alone does not load
    try:
        yield
    except errors.HFValidationError as error:
        raise RecipeError("repo_id", f"{repo_id!r}", expected="'user/model'") from error
    except errors.LocalEntryNotFoundError as error:
        raise StorageError(
            repo_id,
            "the model was not fetched before, and the hub was not asked or cannot be reached",
            fix="run the same again when the hub answers, or give the folder of a copy to sa_nowcast.load",
        ) from error
    except (errors.GatedRepoError, errors.RepositoryNotFoundError) as error:
        raise StorageError(
            repo_id,
            "the hub has no such model, or not for you",
            fix="give the name of a model that is there, or log in by hf auth login",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise StorageError(repo_id, "the hub has no such revision", fix="name a branch, tag or commit") from error
    except (errors.LocalTokenNotFoundError, errors.HfHubHTTPError) as error:
        reason = " ".join(str(error).split())[:160]
        status = getattr(getattr(error, "response", None), "status_code", 401)
        remedy = "log in by hf auth login" if status in (401, 403) else _LATER
        raise StorageError(repo_id, f"the model could not be {done} ({reason})", fix=remedy) from error
    except Exception as error:
        # Every version of huggingface_hub has another network library, each with errors of its own.
        if isinstance(error, OSError) or type(error).__module__.partition(".")[0].startswith(("http", "requests")):
            reason = " ".join(str(error).split())[:160] or type(error).__name__
            found = f"the model could not be {done}: the hub cannot be reached ({reason})"
            raise StorageError(repo_id, found, fix=_LATER) from error
        raise
