"""The losses on cells few enough to count."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy, softplus

from stockformer.interface import Batch, Forecast
from stockformer.training.losses import (
    CorrelationLoss,
    Loss,
    MaskedLoss,
    PairwiseLoss,
    PublishedLoss,
    RankingLoss,
)


def masked_loss(**changes: str | bool | float) -> MaskedLoss:
    settings = {"error": "absolute", "low_band_return": False}
    settings |= {"regression_weight": 1.0, "classification_weight": 1.0}
    return MaskedLoss(horizon=2, wavelet="sym2", **(settings | changes))  # type: ignore[arg-type]


def case() -> tuple[Forecast, Batch]:
    torch.manual_seed(0)
    target = torch.tensor([[[0.1, 0.0, -0.2], [0.0, 0.3, 0.1]]])
    batch = Batch(
        returns=torch.zeros(1, 4, 3),
        trend=torch.zeros(1, 4, 3),
        factors=torch.zeros(1, 4, 3, 1),
        calendar=torch.zeros(1, 6, 2, dtype=torch.long),
        target=target,
        up=(target > 0).long(),
        valid=torch.tensor([[[True, True, True], [False, True, True]]]),
        signal=torch.tensor([3]),
        known=torch.ones(1, 4, 3, dtype=torch.bool),
    )
    forecast = Forecast(
        returns=torch.randn(1, 2, 3, requires_grad=True),
        logits=torch.randn(1, 2, 3, 2),
        returns_low=torch.randn(1, 2, 3),
        logits_low=torch.randn(1, 2, 3, 2),
    )
    return forecast, batch


def test_a_missing_cell_counts_in_neither_task_and_a_zero_return_in_both() -> None:
    forecast, batch = case()
    valid = batch.valid
    parts = masked_loss()(forecast, batch)
    expected = (forecast.returns - batch.target)[valid].abs().mean()
    torch.testing.assert_close(parts.regression, expected)
    both = [
        cross_entropy(logits[valid], batch.up[valid])
        for logits in (forecast.logits, forecast.logits_low)
    ]
    torch.testing.assert_close(parts.classification, sum(both))
    torch.testing.assert_close(parts.total, parts.regression + parts.classification)


def test_what_stands_in_a_missing_cell_changes_nothing() -> None:
    forecast, batch = case()
    target = batch.target.clone()
    target[~batch.valid] = 9.0
    other = replace(batch, target=target, up=1 - batch.up * batch.valid)
    other = replace(other, up=torch.where(batch.valid, batch.up, 1 - batch.up))
    one, two = (masked_loss(low_band_return=True)(forecast, b).total for b in (batch, other))
    torch.testing.assert_close(one, two)


def test_the_error_may_be_squared_and_nothing_else() -> None:
    forecast, batch = case()
    expected = ((forecast.returns - batch.target)[batch.valid] ** 2).mean()
    torch.testing.assert_close(masked_loss(error="squared")(forecast, batch).regression, expected)
    with pytest.raises(ValueError, match=r"loss\.error='cubed': must be one of absolute, squared"):
        masked_loss(error="cubed")


def test_no_valid_cell_is_a_zero_loss_with_a_zero_gradient() -> None:
    forecast, batch = case()
    parts = masked_loss()(forecast, replace(batch, valid=torch.zeros_like(batch.valid)))
    parts.total.backward()
    assert parts.total.item() == 0
    assert not forecast.returns.grad.any()


def test_weights_and_the_low_band_enter_the_total() -> None:
    forecast, batch = case()
    plain = masked_loss()(forecast, batch)
    weighted = masked_loss(regression_weight=3.0, classification_weight=0.5)(forecast, batch)
    expected = 3 * plain.regression + 0.5 * plain.classification
    torch.testing.assert_close(weighted.total, expected)
    low = masked_loss(low_band_return=True)(forecast, batch)
    assert low.regression > plain.regression


def test_a_model_without_a_low_band_is_trained_by_the_masked_loss_alone() -> None:
    forecast, batch = case()
    plain = Forecast(forecast.returns, forecast.logits)
    assert masked_loss()(plain, batch).total.isfinite()
    with pytest.raises(ValueError, match="needs a model with bands"):
        PublishedLoss(horizon=2, wavelet="sym2")(plain, batch)


@pytest.mark.parametrize(
    "loss",
    [
        masked_loss(low_band_return=True),
        PublishedLoss(horizon=2, wavelet="sym2"),
        CorrelationLoss(error_weight=0.1, classification_weight=0.5),
        PairwiseLoss(slope=2.0, error_weight=0.1, classification_weight=0.5),
    ],
    ids=["masked", "published", "correlation", "pairwise"],
)
def test_a_batch_in_pieces_has_the_same_loss(loss: Loss) -> None:
    torch.manual_seed(1)
    cells = (5, 2, 7)
    target = torch.randn(cells, dtype=torch.double) * (torch.rand(cells) > 0.3)
    batch = Batch(
        *(torch.zeros(5, 4, 7) for _ in range(3)),
        calendar=torch.zeros(5, 6, 2, dtype=torch.long),
        target=target,
        up=(target > 0).long(),
        valid=torch.rand(cells) > 0.3,
        signal=torch.arange(5),
        known=torch.ones(5, 4, 7, dtype=torch.bool),
    )
    outputs = [torch.randn(*cells, *shape, dtype=torch.double) for shape in ((), (2,), (), (2,))]
    loss = loss.double()
    expected = loss(Forecast(*outputs), batch).total
    sums = sum(
        loss.sums(Forecast(*(o[rows] for o in outputs)), batch.rows(rows))
        for rows in (slice(0, 1), slice(1, 5))
    )
    torch.testing.assert_close(loss.parts(sums, loss.counts(batch)).total, expected)
    pieces = loss.counts(batch.rows(slice(0, 1))) + loss.counts(batch.rows(slice(1, 5)))
    torch.testing.assert_close(pieces, loss.counts(batch), rtol=1e-6, atol=0)


def correlation_loss() -> CorrelationLoss:
    return CorrelationLoss(error_weight=0.1, classification_weight=0.5)


def test_the_correlation_loss_is_minus_the_mean_daily_correlation() -> None:
    forecast, batch = case()
    parts = correlation_loss()(forecast, batch)
    daily = []
    for step in range(2):
        cells = batch.valid[0, step]
        pair = torch.stack([forecast.returns[0, step, cells], batch.target[0, step, cells]])
        daily.append(torch.corrcoef(pair)[0, 1])
    error = (forecast.returns - batch.target)[batch.valid].square().mean()
    torch.testing.assert_close(parts.regression, 0.1 * error - torch.stack(daily).mean())
    entropy = cross_entropy(forecast.logits[batch.valid], batch.up[batch.valid])
    torch.testing.assert_close(parts.classification, entropy)
    torch.testing.assert_close(parts.total, parts.regression + 0.5 * entropy)


def test_correlation_ignores_the_scale_of_forecasts_and_missing_cells() -> None:
    forecast, batch = case()
    loss = CorrelationLoss(error_weight=0.0, classification_weight=0.0)
    moved = torch.where(batch.valid, 7 * forecast.returns - 3, 1e6)
    expected = loss(forecast, batch).total
    torch.testing.assert_close(loss(replace(forecast, returns=moved), batch).total, expected)


def pairwise_loss() -> PairwiseLoss:
    return PairwiseLoss(slope=2.0, error_weight=0.1, classification_weight=0.5)


def test_the_pairwise_loss_is_the_mean_over_pairs_then_over_dates() -> None:
    forecast, batch = case()
    days = []
    for step in range(2):
        stocks = batch.valid[0, step].nonzero().flatten().tolist()
        values, found = batch.target[0, step], forecast.returns[0, step]
        pairs = [(i, j) for i in stocks for j in stocks if values[i] > values[j]]
        days.append(torch.stack([softplus(2 * (found[j] - found[i])) for i, j in pairs]).mean())
    error = (forecast.returns - batch.target)[batch.valid].square().mean()
    parts = pairwise_loss()(forecast, batch)
    torch.testing.assert_close(parts.regression, torch.stack(days).mean() + 0.1 * error)


def test_equal_targets_and_missing_stocks_are_no_pairs() -> None:
    forecast, _ = case()
    target = torch.tensor([[[0.1, 0.1, -0.2], [0.0, 0.3, 0.1]]])
    valid = torch.tensor([[[True, True, True], [False, True, True]]])
    pairs = PairwiseLoss(slope=2.0, error_weight=0.0, classification_weight=0.0)
    one = pairs.date_losses(forecast.returns, target, valid)
    found = forecast.returns[0]
    first = softplus(2 * (found[0, 2] - found[0, :2])).mean()
    second = softplus(2 * (found[1, 2] - found[1, 1]))
    torch.testing.assert_close(one[0], torch.stack([first, second]))


@pytest.mark.parametrize("loss", [correlation_loss(), pairwise_loss()])
@pytest.mark.parametrize("what", ["forecast", "target", "one stock"])
def test_a_day_without_an_order_has_a_finite_gradient(what: str, loss: RankingLoss) -> None:
    forecast, batch = case()
    if what == "forecast":
        forecast = replace(forecast, returns=torch.zeros(1, 2, 3, requires_grad=True))
    elif what == "target":
        batch = replace(batch, target=torch.full((1, 2, 3), 0.2))
    else:
        valid = batch.valid.clone()
        valid[0, 0] = torch.tensor([True, False, False])
        batch = replace(batch, valid=valid)
    loss(forecast, batch).total.backward()
    assert forecast.returns.grad is not None
    assert forecast.returns.grad.isfinite().all()
    assert loss.counts(batch)[0] == {"forecast": 2, "target": 0, "one stock": 1}[what]


@pytest.mark.parametrize("loss", [correlation_loss(), pairwise_loss()])
def test_equal_targets_of_many_stocks_are_no_order_whatever_their_mean_rounds_to(
    loss: RankingLoss,
) -> None:
    _, batch = case()
    wide = torch.Size((1, 2, 191))
    batch = replace(batch, target=torch.full(wide, 0.1), valid=torch.ones(wide, dtype=torch.bool))
    assert loss.counts(batch)[0] == 0
    random = torch.randn(*wide)
    batch = replace(batch, up=torch.zeros(wide, dtype=torch.long))
    forecast = Forecast(random, torch.zeros(*wide, 2))
    error = 0.1 * (random - 0.1).square().mean()
    torch.testing.assert_close(loss(forecast, batch).regression, error)
