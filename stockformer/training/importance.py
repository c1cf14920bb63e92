"""Permutation importance of a model's inputs: forecasts with one group of inputs shuffled.

B batch, L lookback, H horizon, N stocks, F factors.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from stockformer.evaluation.importance import (
    PAST_RETURNS,
    Importance,
    groups,
    importance,
    rank_ic_by_date,
)
from stockformer.interface import Batch
from stockformer.training.evaluate import Evaluator
from stockformer.training.memory import oom_advice


@torch.inference_mode()
def permutation_importance(
    model: nn.Module,
    batches: Iterable[Batch],
    names: Sequence[str],
    *,
    evaluator: Evaluator,
    horizon: int,
    seed: int,
) -> Importance:
    """The drop of the rank IC if a group of inputs is shuffled across the stocks of a date.

    A stock's whole window of the group goes to another stock, so that its course over the days is
    kept; only stocks that were traded on the signal date take part. Each date and group has its own
    permutation, which depends on the seed alone. names: of the factors. evaluator: with the device
    and the realised targets. horizon: `Predictions.horizon`.
    """
    model.eval()
    targets = evaluator.targets
    shuffled: dict[str, list[int]] = {**groups(names), PAST_RETURNS: []}
    series: dict[str, list[np.ndarray]] = {name: [] for name in ("", *shuffled)}
    signals = []
    for batch in batches:
        on_device = batch.to(evaluator.device)
        rows = batch.signal.cpu().numpy()
        signals.append(rows)
        for place, name in enumerate(series):
            piece = on_device
            if name:
                order = permutations(on_device, seed, place)
                piece = with_shuffled(on_device, order, shuffled[name])
            with oom_advice(f"forecasting {len(rows)} days"):
                made = model(piece).returns.double().cpu().numpy()
            forecast = evaluator.neutralise(rows, made)
            series[name].append(
                rank_ic_by_date(forecast, targets.returns[rows], targets.valid[rows])
            )
    order_of_dates = np.argsort(np.concatenate(signals))
    by_date = {name: np.concatenate(parts)[order_of_dates] for name, parts in series.items()}
    factors = {name: tuple(names[n] for n in places) for name, places in shuffled.items()}
    return importance(by_date.pop(""), by_date, factors, horizon)


def permutations(batch: Batch, seed: int, group: int) -> Tensor:
    """(B, N) for each sample, the stock whose inputs each stock gets; its own if not traded."""
    known = batch.known[:, -1].cpu().numpy()
    order = np.tile(np.arange(known.shape[1]), (len(known), 1))
    for row, signal in enumerate(batch.signal.tolist()):
        traded = np.flatnonzero(known[row])
        order[row, traded] = np.random.default_rng((seed, signal, group)).permutation(traded)
    return torch.from_numpy(order).to(batch.factors.device)


def with_shuffled(batch: Batch, order: Tensor, factors: Sequence[int]) -> Batch:
    """The batch with these factors (positions) of other stocks; with none, their past returns."""
    if not factors:
        moved = {
            name: torch.take_along_dim(getattr(batch, name), order[:, None], dim=2)
            for name in ("returns", "trend", "known")
        }
        return replace(batch, **moved)
    chosen = torch.tensor(list(factors), device=batch.factors.device)
    values = batch.factors.clone()
    values[..., chosen] = torch.take_along_dim(
        batch.factors[..., chosen], order[:, None, :, None], dim=2
    )
    return replace(batch, factors=values)
