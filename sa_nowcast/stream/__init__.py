"""Windows become batches of tensors: the one place where xarray data enter torch.

A sample is a function of (seed, sample number): which window, in which order, cropped where. So a resumed or
re-distributed run sees exactly the samples that an unbroken run sees. `order` plans it in integers, `blocks` and
`stored` read, `reader` cuts windows out of what was read, `dataset` and `loader` are what a training loop uses;
`digits` and `made` make samples in place of reading them; `numbered` is what all samples share.
"""

from sa_nowcast.stream.batch import Batch, prepare
from sa_nowcast.stream.dataset import CACHE_BYTES, IN_MEMORY_BYTES, SequenceDataset
from sa_nowcast.stream.digits import DigitSamples
from sa_nowcast.stream.loader import EpochSampler, Samples, SequenceLoader, Share, StepSampler, batches, loader
from sa_nowcast.stream.made import MadeSamples
from sa_nowcast.stream.reader import Window

__all__ = [
    "CACHE_BYTES",
    "IN_MEMORY_BYTES",
    "Batch",
    "DigitSamples",
    "EpochSampler",
    "MadeSamples",
    "Samples",
    "SequenceDataset",
    "SequenceLoader",
    "Share",
    "StepSampler",
    "Window",
    "batches",
    "loader",
    "prepare",
]
