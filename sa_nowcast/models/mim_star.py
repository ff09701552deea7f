"""MIM* (Wang et al., CVPR 2019): the modules of MIM in the layers of PredRNN++.

There is no code of it, and the paper says of it no more than that. This is a reading: as in PredRNN++ the lowest layer
is a Causal LSTM with the gradient highway above it; in the layers above, T takes the place of f ∘ C_{t-1}. What the
second layer reads, the highway, is also what its first module takes the difference of.
"""

from __future__ import annotations

from functools import partial

from sa_nowcast.models import causal_lstm, mim
from sa_nowcast.models.config import NetworkConfig
from sa_nowcast.models.predrnn_plus_plus import HighwayLayer


class Layer(mim.Layer):
    """A layer with `mim.MemoryInMemory`, whose cell is a `causal_lstm.CausalLSTM`."""

    def make_cell(self, inputs: int, memory: int, hidden: int, config: NetworkConfig) -> causal_lstm.CausalLSTM:
        """Return the cell."""
        return causal_lstm.CausalLSTM(inputs, memory, hidden, config, forgets=False)


core = partial(mim.stack, partial(mim.Lowest, layer=causal_lstm.Layer), partial(HighwayLayer, layer=Layer), Layer)
