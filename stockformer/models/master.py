"""MASTER: factors weighted by the market's state, attention over days, then across stocks.

Li, Liu, Shen, Wang, Chen and Huang, "MASTER: market-guided stock transformer for stock price
forecasting", AAAI 2024, arXiv 2312.15235. The paper describes the market by index prices and
volumes; here it is the equal-weight return of the known stocks and their dispersion, of the signal
day and as mean and standard deviation over the window, so that every data set has it.

B batch, L lookback, H horizon, N stocks, F factors, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stockformer.interface import Batch, Forecast
from stockformer.models.layers import EncoderLayer, Heads, cells, sinusoids, unknown_as_least

MARKET_STATUS = 6  # numbers that describe the market


def market_status(batch: Batch) -> Tensor:
    """(B, MARKET_STATUS), in percent: today's value, mean and standard deviation over the window,
    of the mean return across known stocks and of its standard deviation across them."""
    known = batch.known.to(batch.returns.dtype)
    counts = known.sum(dim=-1).clamp(min=1)  # (B,L)
    returns = 100 * batch.returns * known
    mean = returns.sum(dim=-1) / counts
    apart = ((returns - mean[..., None]) * known).square().sum(dim=-1) / counts
    dispersion = (apart + 1e-6).sqrt()  # a gradient of the root at 0 would be infinite
    series = torch.stack([mean, dispersion], dim=1)  # (B,2,L)
    deviation = (series.var(dim=-1, correction=0) + 1e-6).sqrt()
    return torch.cat([series[..., -1], series.mean(dim=-1), deviation], dim=-1)


class MarketGate(nn.Module):
    """Each column of the inputs times F+1 times its share in a softmax of the market's state."""

    def __init__(self, columns: int, temperature: float) -> None:
        super().__init__()
        self.columns, self.temperature = columns, temperature
        self.weight = nn.Linear(MARKET_STATUS, columns)

    def forward(self, x: Tensor, status: Tensor) -> Tensor:
        """x (B,N,L,F+1), status (B,6)."""
        share = (self.weight(status) / self.temperature).softmax(dim=-1)  # (B,F+1)
        return x * (self.columns * share)[:, None, None]


class TemporalAggregation(nn.Module):
    """The days of a stock, weighted by how each fits the signal day."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width, bias=False)

    def forward(self, days: Tensor, known: Tensor) -> Tensor:
        """days (B,N,L,D), known (B,N,L) -> (B,N,D)."""
        scores = torch.einsum("bnld,bnd->bnl", days, self.query(days[:, :, -1]))
        weights = (scores + unknown_as_least(known, scores.dtype)).softmax(dim=-1)
        return torch.einsum("bnl,bnld->bnd", weights, days)


class MASTER(nn.Module):
    """A permutation of the stocks permutes the forecast. A day on which a stock is not known is
    attended to neither by other stocks nor by the stock's other days.

    temperature: of the market's gate; the larger, the more equal the weights of the factors.
    """

    positions: Tensor

    def __init__(
        self,
        *,
        width: int,
        heads: int,
        dropout: float,
        temperature: float,
        lookback: int,
        horizon: int,
        factors: int,
    ) -> None:
        super().__init__()
        self.gate = MarketGate(factors + 1, temperature)
        self.embed = nn.Linear(factors + 1, width)
        self.register_buffer("positions", sinusoids(lookback, width), persistent=False)
        self.over_days = EncoderLayer(width, heads, dropout)
        self.across_stocks = EncoderLayer(width, heads, dropout)
        self.norm = nn.LayerNorm(width)
        self.aggregation = TemporalAggregation(width)
        self.heads = Heads(width, horizon)

    def forward(self, batch: Batch) -> Forecast:
        size, lookback, stocks = batch.known.shape
        known = batch.known.transpose(1, 2)  # (B,N,L)
        x = self.embed(self.gate(cells(batch), market_status(batch))) + self.positions
        x = self.over_days(x.flatten(0, 1), known.flatten(0, 1))  # (B*N,L,D)
        x = x.unflatten(0, (size, stocks)).transpose(1, 2)  # (B,L,N,D)
        x = self.across_stocks(x.flatten(0, 1), batch.known.flatten(0, 1))  # (B*L,N,D)
        x = self.norm(x).unflatten(0, (size, lookback)).transpose(1, 2)  # (B,N,L,D)
        return self.heads(self.aggregation(x, known))
