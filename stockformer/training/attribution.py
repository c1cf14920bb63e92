"""Which inputs moved a forecast: gradient x input (Shrikumar et al. 2016, arXiv 1605.01713).

Of trees it is what their splits add.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from stockformer.interface import Batch
from stockformer.models.lightgbm import LightGBM


@dataclass(frozen=True)
class Attribution:
    """Of K stocks' forecasts, in the unit of the forecast; exact where the model is linear.

    factors (K, F): of each of the stock's own factors, all days of the window together.
    past_returns (K,): of its own past returns. other_stocks (K,): of all inputs of the others.
    """

    factors: np.ndarray
    past_returns: np.ndarray
    other_stocks: np.ndarray


def attribute(
    model: nn.Module, batch: Batch, stocks: Sequence[int], steps: np.ndarray
) -> Attribution:
    """Attribute the mean forecast of the `steps` (H,) bool to the inputs, stock by stock.

    batch: one window, on the model's device. The signs of past returns (`trend`) and the calendar
    are inputs without a gradient.
    """
    model.eval()
    if isinstance(model, LightGBM):  # steps have no gradient
        parts = model.contributions(batch)[0, list(stocks)][:, torch.from_numpy(steps)]  # (K,h,F)
        nothing = np.zeros(len(stocks))
        return Attribution(parts.mean(dim=1).double().cpu().numpy(), nothing, nothing)
    inputs = (batch.factors.detach().requires_grad_(), batch.returns.detach().requires_grad_())
    with torch.backends.cudnn.flags(enabled=False):  # its RNNs have no backward in evaluation
        forecast = model(replace(batch, factors=inputs[0], returns=inputs[1])).returns
    signal = forecast[0, torch.from_numpy(steps).to(forecast.device)].mean(dim=0)
    factors, past, others = [], [], []
    for stock in stocks:
        gradients = torch.autograd.grad(
            signal[stock], inputs, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        by_factor, by_return = (
            (gradient * value).detach().sum(dim=(0, 1))
            for gradient, value in zip(gradients, inputs)
        )
        own = by_factor[stock]
        factors.append(own.double().cpu().numpy())
        past.append(float(by_return[stock]))
        others.append(float(by_factor.sum() + by_return.sum() - own.sum() - by_return[stock]))
    return Attribution(np.array(factors), np.array(past), np.array(others))
