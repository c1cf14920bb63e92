"""Permutation importance, on a linear model where the answer is known."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from stockformer.evaluation.importance import PAST_RETURNS
from stockformer.interface import Batch, Forecast
from stockformer.training.evaluate import Neutralise, unchanged
from stockformer.training.importance import (
    permutation_importance,
    permutations,
    with_shuffled,
)

DATES, DAYS, STOCKS = 240, 3, 200
WEIGHTS = {"strong": 2.0, "weak": 1.0, "unused": 0.0}


class Linear(nn.Module):
    """The last day's factors by their weights."""

    def forward(self, batch: Batch) -> Forecast:
        weights = torch.tensor(list(WEIGHTS.values()))
        returns = (batch.factors[:, -1] @ weights)[:, None]
        return Forecast(returns=returns, logits=torch.zeros(*returns.shape, 2))


class Reversal(nn.Module):
    """Against the last day's return, whatever the factors."""

    def forward(self, batch: Batch) -> Forecast:
        returns = -batch.returns[:, -1:]
        return Forecast(returns=returns, logits=torch.zeros(*returns.shape, 2))


def batch(masked: int = 0) -> Batch:
    random = torch.Generator().manual_seed(0)
    known = torch.ones(DATES, DAYS, STOCKS, dtype=torch.bool)
    known[:, -1, :masked] = False
    returns = torch.randn(DATES, DAYS, STOCKS, generator=random)
    return Batch(
        returns=returns,
        trend=(returns > 0).float(),
        factors=torch.randn(DATES, DAYS, STOCKS, len(WEIGHTS), generator=random),
        calendar=torch.zeros(DATES, DAYS + 1, 2, dtype=torch.long),
        target=torch.zeros(DATES, 1, STOCKS),
        up=torch.zeros(DATES, 1, STOCKS, dtype=torch.long),
        valid=torch.ones(DATES, 1, STOCKS, dtype=torch.bool),
        signal=torch.arange(DATES),
        known=known,
    )


def measured(
    model: nn.Module,
    given: Batch,
    noise: float,
    parts: int = 1,
    neutralise: Neutralise = unchanged,
):
    """The importance where the outcome is the model's forecast plus noise."""
    forecast = model(given).returns.numpy().astype(float)
    outcome = forecast + noise * np.random.default_rng(1).normal(size=forecast.shape)
    targets = SimpleNamespace(returns=outcome, valid=given.valid.numpy())
    size = DATES // parts
    return permutation_importance(
        model,
        [given.rows(slice(first, first + size)) for first in range(0, DATES, size)],
        list(WEIGHTS),
        evaluator=SimpleNamespace(
            targets=targets, device=torch.device("cpu"), neutralise=neutralise
        ),
        horizon=1,
        seed=3,
    )


def test_a_linear_model_loses_what_each_weight_is_worth() -> None:
    noise = 5.0
    found = measured(Linear(), batch(), noise)
    variance = sum(weight**2 for weight in WEIGHTS.values())
    scale = np.sqrt(variance * (variance + noise**2))

    def rank(correlation: float) -> float:  # of normal variables
        return 6 / np.pi * np.arcsin(correlation / 2)

    assert found.rank_ic == pytest.approx(rank(variance / scale), abs=0.01)
    assert found.dates == DATES
    for name, weight in WEIGHTS.items():
        expected = rank(variance / scale) - rank((variance - weight**2) / scale)
        row = found.table.loc[name]
        assert row["mean"] == pytest.approx(expected, abs=0.015), name
        if weight:
            assert 0 < row["lower"] < row["mean"] < row["upper"]
            assert row["lower"] < expected < row["upper"]
    assert found.table.loc["unused", ["mean", "lower", "upper"]].tolist() == [0, 0, 0]
    assert found.table.loc[PAST_RETURNS, "mean"] == 0
    assert found.factors == {**{name: (name,) for name in WEIGHTS}, PAST_RETURNS: ()}


def test_past_returns_are_an_input_too() -> None:
    found = measured(Reversal(), batch(), noise=1.0)
    assert found.table.loc[PAST_RETURNS, "lower"] > 0.5
    assert (found.table["mean"].drop(PAST_RETURNS) == 0).all()


def test_the_forecasts_are_neutralised_first() -> None:
    plain = measured(Linear(), batch(), 5.0)
    turned = measured(Linear(), batch(), 5.0, neutralise=lambda rows, forecasts: -forecasts)
    assert turned.rank_ic == pytest.approx(-plain.rank_ic)


def test_the_batches_do_not_matter() -> None:
    once, often = (measured(Linear(), batch(), 5.0, parts) for parts in (1, 4))
    assert once.table.equals(often.table)


def test_a_stock_that_was_not_traded_keeps_its_inputs() -> None:
    given = batch(masked=50)
    order = permutations(given, seed=0, group=1)
    assert (order[:, :50] == torch.arange(50)).all()
    assert (order[:, 50:].sort(dim=1).values == torch.arange(50, STOCKS)).all()
    assert not (order[0] == order[1]).all()  # another permutation on each date


def test_a_stocks_window_moves_as_a_whole_and_others_inputs_stay() -> None:
    given = batch()
    order = permutations(given, seed=0, group=1)
    moved = with_shuffled(given, order, [1])
    assert torch.equal(moved.factors[..., [0, 2]], given.factors[..., [0, 2]])
    for sample in (0, 7):
        expected = given.factors[sample][:, order[sample], 1]
        assert torch.equal(moved.factors[sample, :, :, 1], expected)
    past = with_shuffled(given, order, [])
    assert torch.equal(past.factors, given.factors)
    for name in ("returns", "trend", "known"):
        expected = getattr(given, name)[0][:, order[0]]
        assert torch.equal(getattr(past, name)[0], expected)
    same = replace(given, factors=given.factors.clone())
    assert torch.equal(same.factors, batch().factors)  # the batch itself is not changed
