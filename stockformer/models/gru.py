"""A gated recurrent unit over the days of each stock.

Cho et al., "Learning phrase representations using RNN encoder-decoder for statistical machine
translation", EMNLP 2014, arXiv 1406.1078; the last state is the forecast's.
"""

from __future__ import annotations

from torch import nn

from stockformer.models.layers import Recurrent


class GRU(Recurrent):
    cell = nn.GRU
