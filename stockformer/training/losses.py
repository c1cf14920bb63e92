"""The two tasks' losses. B batch, H horizon, N stocks; every loss is a mean over cells.

Both losses are called alike, `loss(forecast, batch) -> LossParts`, so that the config chooses.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from stockformer.interface import Batch, Forecast
from stockformer.models.wavelet import band_matrices


@dataclass(frozen=True)
class LossParts:
    """What the optimizer minimises and its two tasks, scalars."""

    total: Tensor
    regression: Tensor
    classification: Tensor


ERRORS = {"absolute": torch.abs, "squared": torch.square}


class MaskedLoss(nn.Module):
    """Error and cross-entropy over the valid cells of both tasks: a missing return is no "down".

    error: "absolute" (MAE) or "squared", of the target as it is trained on.
    low_band_return: also train the low band's own return head on the low band of the target. The
    target days are few, so that band mixes them; it is off unless asked for.
    """

    def __init__(
        self,
        *,
        horizon: int,
        wavelet: str,
        error: str,
        low_band_return: bool,
        regression_weight: float,
        classification_weight: float,
    ) -> None:
        super().__init__()
        if error not in ERRORS:
            raise ValueError(f"loss.error={error!r}: must be one of {', '.join(ERRORS)}")
        self.error = ERRORS[error]
        self.low_band_return = low_band_return
        self.weights = (regression_weight, classification_weight)
        self.register_buffer("target_low", target_band(horizon, wavelet), persistent=False)

    def forward(self, forecast: Forecast, batch: Batch) -> LossParts:
        valid = batch.valid
        regression = masked_mean(self.error(forecast.returns - batch.target), valid)
        classification = masked_mean(per_cell_cross_entropy(forecast.logits, batch.up), valid)
        if forecast.logits_low is not None:
            low = per_cell_cross_entropy(forecast.logits_low, batch.up)
            classification = classification + masked_mean(low, valid)
        if forecast.returns_low is not None and self.low_band_return:
            target = torch.einsum("kh,bhn->bkn", self.target_low, batch.target)
            # A band needs every day it mixes: one missing day leaves the stock out.
            whole = valid.all(dim=1, keepdim=True).expand_as(valid)
            regression = regression + masked_mean(self.error(forecast.returns_low - target), whole)
        total = self.weights[0] * regression + self.weights[1] * classification
        return LossParts(total, regression, classification)


class PublishedLoss(nn.Module):
    """The published sum, kept to be measured: a zero return counts as missing in MAE, not in CE."""

    def __init__(self, *, horizon: int, wavelet: str) -> None:
        super().__init__()
        self.register_buffer("target_low", target_band(horizon, wavelet), persistent=False)

    def forward(self, forecast: Forecast, batch: Batch) -> LossParts:
        target = torch.einsum("kh,bhn->bkn", self.target_low, batch.target)
        return self.of(forecast, batch.target, target, batch.up)

    @staticmethod
    def of(forecast: Forecast, y: Tensor, y_low: Tensor, up: Tensor) -> LossParts:
        """y, y_low, up (B, H, N); needs a model with a low band. NaN where every y is zero."""
        if forecast.returns_low is None or forecast.logits_low is None:
            raise ValueError("loss=published needs a model with a low band; use loss=masked")
        regression = published_mae(forecast.returns, y) + published_mae(forecast.returns_low, y_low)
        classification = (
            per_cell_cross_entropy(forecast.logits, up).mean()
            + per_cell_cross_entropy(forecast.logits_low, up).mean()
        )
        return LossParts(regression + classification, regression, classification)


class LossMeter:
    """The mean over samples of a loss and its two tasks; adds on the device, reads once."""

    def __init__(self) -> None:
        self.sums: Tensor | float = 0.0
        self.samples = 0

    def add(self, parts: LossParts, samples: int) -> None:
        values = torch.stack([parts.total, parts.regression, parts.classification]).detach()
        self.sums = self.sums + samples * values
        self.samples += samples

    def means(self, prefix: str) -> dict[str, float]:
        assert isinstance(self.sums, Tensor), "no batch was added"
        names = (f"{prefix}loss", f"{prefix}regression_loss", f"{prefix}classification_loss")
        return dict(zip(names, (self.sums / self.samples).tolist()))


def target_band(horizon: int, wavelet: str) -> Tensor:
    """The low band of the H target days as a matrix (H, H)."""
    return torch.as_tensor(band_matrices(horizon, wavelet)[0], dtype=torch.get_default_dtype())


def masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    """The mean over valid cells; 0 with a zero gradient where there are none."""
    return (values * valid).sum() / valid.sum().clamp(min=1)


def per_cell_cross_entropy(logits: Tensor, up: Tensor) -> Tensor:
    """logits (B, H, N, 2), up (B, H, N) -> (B, H, N)."""
    return cross_entropy(logits.flatten(0, 2), up.flatten(), reduction="none").view(up.shape)


def published_mae(prediction: Tensor, y: Tensor) -> Tensor:
    # The published weights are float32 whatever the model is; a plain masked mean is 1e-8 off.
    kept = (y != 0).float()
    return ((prediction - y).abs() * (kept / kept.mean())).mean()
