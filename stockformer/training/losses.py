"""The losses of the two tasks. B batch, H horizon, N stocks; K the means a loss consists of.

Every loss is a weighted sum of K means over cells. It returns sums and counts separately. Both are
additive, so the gradient of a batch and the mean of an epoch do not depend on how the cells are
split into micro-batches or over processes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, softplus

from stockformer.interface import Batch, Forecast
from stockformer.models.wavelet import band_matrices


@dataclass(frozen=True)
class LossParts:
    """The total loss and the losses of its two tasks, scalars."""

    total: Tensor
    regression: Tensor
    classification: Tensor

    def named(self, prefix: str = "") -> dict[str, float]:
        return {
            f"{prefix}loss": self.total.item(),
            f"{prefix}regression_loss": self.regression.item(),
            f"{prefix}classification_loss": self.classification.item(),
        }


class Loss(nn.Module, ABC):
    """The interface of a loss."""

    @abstractmethod
    def sums(self, forecast: Forecast, batch: Batch) -> Tensor:
        """(K,) the numerator of each mean over the cells of `batch`."""

    @abstractmethod
    def counts(self, batch: Batch) -> Tensor:
        """(K,) the number of cells of each mean."""

    @abstractmethod
    def parts(self, sums: Tensor, counts: Tensor) -> LossParts:
        """The loss from sums and counts (K,), each added up over any number of batches."""

    def forward(self, forecast: Forecast, batch: Batch) -> LossParts:
        return self.parts(self.sums(forecast, batch), self.counts(batch))


FLAT = 1e-10  # length of deviations from the mean up to which values count as equal
ERRORS = {"absolute": torch.abs, "squared": torch.square}


class MaskedLoss(Loss):
    """Error and cross-entropy over the valid cells of both tasks; a missing return is not "down".

    error: "absolute" (MAE) or "squared", of the transformed target.
    low_band_return: also train the low band's own return head on the low band of the target. The
    target days are few, so that band mixes them; off by default. wavelet: the model's, which makes
    that band; None for a model without bands.
    A mean over no cells is 0, with a zero gradient.
    """

    def __init__(
        self,
        *,
        horizon: int,
        wavelet: str | None,
        error: str,
        low_band_return: bool,
        regression_weight: float,
        classification_weight: float,
    ) -> None:
        super().__init__()
        if error not in ERRORS:
            raise ValueError(f"loss.error={error!r}: must be one of {', '.join(ERRORS)}")
        if low_band_return and wavelet is None:
            raise ValueError("loss.low_band_return=true: the model has no bands (model.wavelet)")
        self.error = ERRORS[error]
        self.low_band_return = low_band_return
        self.weights = (regression_weight, classification_weight)
        band = None if wavelet is None else target_band(horizon, wavelet)
        self.register_buffer("target_low", band, persistent=False)

    def sums(self, forecast: Forecast, batch: Batch) -> Tensor:
        """(4,): error and cross-entropy, then those of the low band, 0 if it is not trained."""
        valid = batch.valid
        sums = [
            (self.error(forecast.returns - batch.target) * valid).sum(),
            (per_cell_cross_entropy(forecast.logits, batch.up) * valid).sum(),
        ]
        nothing = torch.zeros_like(sums[0])
        low_return, low_class = nothing, nothing
        if forecast.logits_low is not None:
            low_class = (per_cell_cross_entropy(forecast.logits_low, batch.up) * valid).sum()
        if forecast.returns_low is not None and self.low_band_return:
            target = torch.einsum("kh,bhn->bkn", self.target_low, batch.target)
            error = self.error(forecast.returns_low - target)
            low_return = (error * whole(valid)).sum()
        return torch.stack([*sums, low_return, low_class])

    def counts(self, batch: Batch) -> Tensor:
        cells = batch.valid.sum()
        return torch.stack([cells, cells, whole(batch.valid).sum(), cells]).to(batch.target.dtype)

    def parts(self, sums: Tensor, counts: Tensor) -> LossParts:
        error, entropy, error_low, entropy_low = sums / counts.clamp(min=1)
        regression, classification = error + error_low, entropy + entropy_low
        total = self.weights[0] * regression + self.weights[1] * classification
        return LossParts(total, regression, classification)


class RankingLoss(Loss):
    """A loss of the order of a date's stocks, plus weighted squared error and cross-entropy.

    error_weight: of the squared error, which keeps the forecasts in the target's scale. Averaged
    over dates; those whose valid targets are all equal, or less than two, have no order and do not
    count. A mean over no dates or cells is 0.
    """

    def __init__(self, *, error_weight: float, classification_weight: float) -> None:
        super().__init__()
        self.error_weight, self.classification_weight = error_weight, classification_weight

    @abstractmethod
    def date_losses(self, forecast: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """(B, H), finite also where there is no order; from each (B, H, N)."""

    def sums(self, forecast: Forecast, batch: Batch) -> Tensor:
        """(3,): the dates' losses, squared error, cross-entropy."""
        valid, ordered = batch.valid, has_distinct_targets(batch.target, batch.valid)
        date_losses = self.date_losses(forecast.returns, batch.target, valid) * ordered
        entropy = per_cell_cross_entropy(forecast.logits, batch.up)
        error = (forecast.returns - batch.target).square()
        return torch.stack([date_losses.sum(), (error * valid).sum(), (entropy * valid).sum()])

    def counts(self, batch: Batch) -> Tensor:
        dates, cells = has_distinct_targets(batch.target, batch.valid).sum(), batch.valid.sum()
        return torch.stack([dates, cells, cells]).to(batch.target.dtype)

    def parts(self, sums: Tensor, counts: Tensor) -> LossParts:
        ranking, error, classification = sums / counts.clamp(min=1)
        regression = ranking + self.error_weight * error
        total = regression + self.classification_weight * classification
        return LossParts(total, regression, classification)


class CorrelationLoss(RankingLoss):
    """Minus the correlation of forecast and target: with a target of ranks nearly the rank IC."""

    def date_losses(self, forecast: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        return -correlation(forecast, target, valid)


class PairwiseLoss(RankingLoss):
    """The logistic loss of the order of each two stocks, averaged over the pairs of a date.

    RankNet (Burges et al., ICML 2005); pairs of equal targets are left out. slope: log-odds of a
    pair's order per unit of difference between its forecasts, sigma of Burges (2010). Memory grows
    with the square of the number of stocks.
    """

    def __init__(self, *, slope: float, error_weight: float, classification_weight: float) -> None:
        super().__init__(error_weight=error_weight, classification_weight=classification_weight)
        self.slope = slope

    def date_losses(self, forecast: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        lead, target_lead = (x.unsqueeze(-1) - x.unsqueeze(-2) for x in (forecast, target))
        ordered = (target_lead > 0) & valid.unsqueeze(-1) & valid.unsqueeze(-2)  # (B,H,N,N)
        losses = softplus(-self.slope * lead) * ordered
        return losses.sum(dim=(-2, -1)) / ordered.sum(dim=(-2, -1)).clamp(min=1)


def has_distinct_targets(target: Tensor, valid: Tensor) -> Tensor:
    """(B, H) bool: dates on which two valid targets differ; each (B, H, N)."""
    least = target.masked_fill(~valid, torch.inf).amin(dim=-1)
    return target.masked_fill(~valid, -torch.inf).amax(dim=-1) > least


def correlation(forecast: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Pearson correlations over the valid stocks; each (B, H, N) -> (B, H), 0 where undefined."""
    (own, length), (others, other_length) = (_deviations(x, valid) for x in (forecast, target))
    return (own * others).sum(dim=-1) / (length * other_length)


def _deviations(values: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Deviations from the mean of the valid stocks, 0 elsewhere, and their length; (B, H, N) -> (B,
    H, N), (B, H)."""
    count = valid.sum(dim=-1, keepdim=True).clamp(min=1)
    mean = (values * valid).sum(dim=-1, keepdim=True) / count
    deviations = (values - mean) * valid
    # The root's gradient is infinite at 0.
    return deviations, deviations.square().sum(dim=-1).clamp(min=FLAT**2).sqrt()


class PublishedLoss(Loss):
    """The published loss, for comparison: a zero return counts as missing in MAE, not in CE.

    NaN where every return is zero. Needs a model with a low band.
    """

    def __init__(self, *, horizon: int, wavelet: str | None) -> None:
        super().__init__()
        if wavelet is None:
            raise ValueError("loss=published needs a model with bands; use loss=masked")
        self.register_buffer("target_low", target_band(horizon, wavelet), persistent=False)

    def sums(self, forecast: Forecast, batch: Batch) -> Tensor:
        return self.sums_of(forecast, batch.target, self.low(batch), batch.up)

    def counts(self, batch: Batch) -> Tensor:
        return self.counts_of(batch.target, self.low(batch))

    def parts(self, sums: Tensor, counts: Tensor) -> LossParts:
        error, error_low, entropy, entropy_low = sums / counts
        regression, classification = error + error_low, entropy + entropy_low
        return LossParts(regression + classification, regression, classification)

    def low(self, batch: Batch) -> Tensor:
        return torch.einsum("kh,bhn->bkn", self.target_low, batch.target)

    @staticmethod
    def sums_of(forecast: Forecast, y: Tensor, y_low: Tensor, up: Tensor) -> Tensor:
        """y, y_low, up (B, H, N)."""
        if forecast.returns_low is None or forecast.logits_low is None:
            raise ValueError("loss=published needs a model with bands; use loss=masked")
        return torch.stack(
            [
                ((forecast.returns - y).abs() * (y != 0)).sum(),
                ((forecast.returns_low - y_low).abs() * (y_low != 0)).sum(),
                per_cell_cross_entropy(forecast.logits, up).sum(),
                per_cell_cross_entropy(forecast.logits_low, up).sum(),
            ]
        )

    @staticmethod
    def counts_of(y: Tensor, y_low: Tensor) -> Tensor:
        # The published weight 1/mean(kept) is always float32, 1e-8 off the exact value; these
        # counts reproduce it.
        weights = [1 / (values != 0).float().mean() for values in (y, y_low)]
        every = torch.ones_like(weights[0])
        return y.numel() / torch.stack([*weights, every, every]).to(y.dtype)


def target_band(horizon: int, wavelet: str) -> Tensor:
    """The low band of the H target days as a matrix (H, H)."""
    return torch.as_tensor(band_matrices(horizon, wavelet)[0], dtype=torch.get_default_dtype())


def whole(valid: Tensor) -> Tensor:
    """(B, H, N) bool: stocks valid on all days; a band mixes all days and needs each of them."""
    return valid.all(dim=1, keepdim=True).expand_as(valid)


def per_cell_cross_entropy(logits: Tensor, up: Tensor) -> Tensor:
    """logits (B, H, N, 2), up (B, H, N) -> (B, H, N)."""
    return cross_entropy(logits.flatten(0, 2), up.flatten(), reduction="none").view(up.shape)
