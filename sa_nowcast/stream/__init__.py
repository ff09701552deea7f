"""Windows become batches of tensors: the one place where xarray data enter torch.

A sample is a function of (seed, sample number): which window, in which order, cropped where. So a resumed or
re-distributed run sees exactly the samples that an unbroken run sees. `order` plans it in integers, `stored`
reads, `blocks` cuts windows out of what was read, `dataset` and `loader` are what a training loop uses;
`synthetic` makes samples in place of reading them; `samples` is what both share.
"""

from sa_nowcast.stream.batch import Batch, prepare
from sa_nowcast.stream.blocks import Window
from sa_nowcast.stream.dataset import CACHE_BYTES, IN_MEMORY_BYTES, SequenceDataset
from sa_nowcast.stream.loader import EpochSampler, SequenceLoader, Share, StepSampler, batches, loader
from sa_nowcast.stream.samples import Samples
from sa_nowcast.stream.synthetic import SyntheticSamples

__all__ = [
    "CACHE_BYTES",
    "IN_MEMORY_BYTES",
    "Batch",
    "EpochSampler",
    "Samples",
    "SequenceDataset",
    "SequenceLoader",
    "Share",
    "StepSampler",
    "SyntheticSamples",
    "Window",
    "batches",
    "loader",
    "prepare",
]
