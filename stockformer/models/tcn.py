"""A temporal convolutional network over the days of each stock.

Bai, Kolter and Koltun, "An empirical evaluation of generic convolutional and recurrent networks
for sequence modeling", arXiv 1803.01271: dilated causal convolutions with normalised weights, in
residual blocks. The state of the signal day is the forecast's.

B batch, L lookback, H horizon, N stocks, F factors, D width.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.parametrizations import weight_norm

from stockformer.interface import Batch, Forecast
from stockformer.models.layers import Heads, cells


class CausalConvolution(nn.Module):
    """A day sees itself and `kernel - 1` days before, `dilation` apart; zeros before the first."""

    def __init__(self, inputs: int, width: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.before = (kernel - 1) * dilation
        self.convolution = weight_norm(nn.Conv1d(inputs, width, kernel, dilation=dilation))

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(pad(x, (self.before, 0)))


class ResidualBlock(nn.Module):
    """Two convolutions of one dilation, added to the block's input."""

    def __init__(self, inputs: int, width: int, kernel: int, dilation: int, dropout: float) -> None:
        super().__init__()
        parts = [
            (CausalConvolution(size, width, kernel, dilation), nn.ReLU(), nn.Dropout(dropout))
            for size in (inputs, width)
        ]
        self.convolutions = nn.Sequential(*(module for part in parts for module in part))
        same = inputs == width
        self.shortcut = nn.Identity() if same else nn.Conv1d(inputs, width, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        return (self.convolutions(x) + self.shortcut(x)).relu()  # (B*N,D,L)


class TCN(nn.Module):
    """Each stock alone. A block's dilation is twice that of the block before it; all together see
    1 + 2 (kernel - 1) (2^layers - 1) days."""

    def __init__(
        self, *, width: int, layers: int, kernel: int, dropout: float, horizon: int, factors: int
    ) -> None:
        super().__init__()
        sizes = [factors + 1, *[width] * (layers - 1)]
        self.blocks = nn.Sequential(
            *(ResidualBlock(size, width, kernel, 2**i, dropout) for i, size in enumerate(sizes))
        )
        self.heads = Heads(width, horizon)

    def forward(self, batch: Batch) -> Forecast:
        x = cells(batch)  # (B,N,L,F+1)
        days = self.blocks(x.flatten(0, 1).transpose(1, 2))  # (B*N,D,L)
        return self.heads(days[..., -1].view(*x.shape[:2], -1))
