"""Where data come from: readers for TaxiBJ, MovingMNIST, KTH, films, radars, NumPy files, and what xarray opens.

The libraries that a source needs are imported when it is used.
"""

from sa_nowcast.sources.arrays import open_array
from sa_nowcast.sources.chain import chain
from sa_nowcast.sources.download import fetch
from sa_nowcast.sources.film import open_film
from sa_nowcast.sources.geotiff import open_geotiff
from sa_nowcast.sources.kth import open_kth
from sa_nowcast.sources.mnist_generator import MovingMnist
from sa_nowcast.sources.moving_mnist import MovingMnistBackendEntrypoint
from sa_nowcast.sources.open import open_source
from sa_nowcast.sources.radar import open_radar
from sa_nowcast.sources.taxibj import TaxiBJBackendEntrypoint, open_taxibj
from sa_nowcast.sources.taxibj_split import TaxiBJSplit, benchmark_split
from sa_nowcast.sources.virtual import open_icechunk, open_references

__all__ = [
    "MovingMnist", "MovingMnistBackendEntrypoint", "TaxiBJBackendEntrypoint", "TaxiBJSplit", "benchmark_split",
    "chain", "fetch", "open_array", "open_film", "open_geotiff", "open_icechunk", "open_kth", "open_radar",
    "open_references", "open_source", "open_taxibj",
]  # fmt: skip
