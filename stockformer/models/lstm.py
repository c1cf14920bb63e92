"""A long short-term memory over the days of each stock.

Hochreiter and Schmidhuber, "Long short-term memory", Neural Computation 9 (1997); for stock returns
as in Fischer and Krauss, "Deep learning with long short-term memory networks for financial market
predictions", European Journal of Operational Research 270 (2018): the last state is the forecast's.
"""

from __future__ import annotations

from torch import nn

from stockformer.models.layers import Recurrent


class LSTM(Recurrent):
    cell = nn.LSTM
