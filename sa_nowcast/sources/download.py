"""Downloads of the public datasets, each checked by its hash."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sa_nowcast.errors import DataError, RecipeError, StorageError, one_of
from sa_nowcast.sources.moving_mnist import FILE, SHA256
from sa_nowcast.sources.paths import PathLike
from sa_nowcast.sources.reading import require

EXTRA: Final = "download"


@dataclass(frozen=True)
class RemoteFile:
    """One file: where it is, its hash as pooch takes it, and whether it is an archive to unpack."""

    url: str
    hash: str
    unpack: bool = False

    @property
    def name(self) -> str:
        """The file's name."""
        return self.url.rpartition("/")[2]


_MNIST: Final = "https://ossci-datasets.s3.amazonaws.com/mnist"
_KTH: Final = "https://www.csc.kth.se/cvap/actions"

PUBLIC: Final[dict[str, tuple[RemoteFile, ...]]] = {
    "mnist": (
        RemoteFile(f"{_MNIST}/train-images-idx3-ubyte.gz", "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873"),
        RemoteFile(f"{_MNIST}/t10k-images-idx3-ubyte.gz", "md5:9fb629c4189551a2d022fa330f9573f3"),
    ),
    "moving_mnist": (RemoteFile(f"https://www.cs.toronto.edu/~nitish/unsupervised_video/{FILE}", f"sha256:{SHA256}"),),
    "kth": tuple(
        RemoteFile(f"{_KTH}/{action}.zip", f"sha1:{sha1}", unpack=True)
        for action, sha1 in {
            "walking": "a3e81537271a0ab4576591774baa38c2d97b7e3a",
            "jogging": "21943bdbcef9dad106db0d74661e49eaeaa15a25",
            "running": "da83bb313edfd4455fffdda6263696fa10d43c6f",
            "boxing": "adb36ed9c29c846d44d2ba15f348bd115c951bbd",
            "handwaving": "0792f7cd69f7f895a205c08ac212ddaa7177e370",
            "handclapping": "d3b81261aa822ef63d0d1523f945bfaff27814d2",
        }.items()
    ),
}
_NOT_PUBLIC: Final = {
    "taxibj": "its authors share BJ13 to BJ16 from their pages by hand; no stable address or hash is published"
}


def fetch(name: str, folder: PathLike) -> Path:
    """Download a public dataset and check it; files that are there and whole are left as they are.

    Parameters
    ----------
    name : {"mnist", "moving_mnist", "kth"}
    folder : path
        Where to.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    RecipeError
        An unknown name.
    DataError
        The data are not public, or what came has another hash.
    StorageError
        The server cannot be reached, or the folder cannot be written.
    """
    if name in _NOT_PUBLIC:
        raise DataError(
            name,
            f"cannot be downloaded by a program ({_NOT_PUBLIC[name]})",
            fix="get the files, then open them with engine='taxibj'",
        )
    if name not in PUBLIC:
        raise RecipeError("name", f"{name!r} is not a known dataset", expected=one_of(name, [*PUBLIC, *_NOT_PUBLIC]))
    target = Path(folder).expanduser()
    for file in PUBLIC[name]:
        fetch_file(file, target)
    return target


def fetch_file(file: RemoteFile, folder: Path) -> Path:
    """Download one file into `folder` and check its hash; see `fetch`."""
    pooch = require("pooch", EXTRA)
    # Imported with pooch, which needs it.
    import requests

    processor = pooch.Unzip(extract_dir=".") if file.unpack else None
    try:
        pooch.retrieve(file.url, known_hash=file.hash, fname=file.name, path=folder, processor=processor)
    except ValueError as error:
        raise DataError(
            file.url, "what was downloaded has another hash", expected=file.hash, fix="try again"
        ) from error
    except (requests.RequestException, TimeoutError) as error:
        raise StorageError(
            file.url, f"cannot be downloaded ({type(error).__name__})", fix="try again when the server answers"
        ) from error
    except OSError as error:
        raise StorageError(
            str(folder),
            f"cannot be written ({error.strerror or error})",
            fix="make room, give the right to write there, or name another folder",
        ) from error
    return folder / file.name
