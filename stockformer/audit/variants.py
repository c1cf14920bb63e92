"""Variants of a panel with another future; results of the past must not change."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np

from stockformer.data.dataset import NewArray, days_at_once
from stockformer.data.panel import Panel

WHOLE, REPLACED, DROPPED, REVALUED = "whole", "replaced", "dropped", "revalued"
MISSING = 0.3


def after(panel: Panel, cut: int, variant: str, new_array: NewArray = np.empty) -> Panel:
    """The panel with everything after row `cut` changed by the variant.

    replaced: noise, 30 % of it missing. dropped: removed. revalued: noise, missing where the panel
    is missing; membership is inverted. whole: unchanged. new_array: makes the array of the factors,
    which are changed by blocks of days.
    """
    if variant == WHOLE:
        return panel
    if variant == DROPPED:
        return drop(panel, cut)
    missing = 0 if variant == REVALUED else MISSING
    return garble(panel, cut, np.random.default_rng(cut), missing, new_array)


def garble(
    panel: Panel,
    cut: int,
    random: np.random.Generator,
    missing: float,
    new_array: NewArray = np.empty,
) -> Panel:
    """Everything after row `cut` is noise; without `missing`, unknown cells stay unknown."""
    late = np.arange(len(panel.dates)) > cut

    def noisy(array: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Noise in place of later days, missing where it should be."""
        gone = random.random(noise.shape) < missing if missing else np.isnan(array)
        return np.where(gone, np.nan, noise)

    def changed(array: np.ndarray, noise: np.ndarray) -> np.ndarray:
        return np.where(late[:, None], noisy(array, noise), array)

    member = panel.member
    if member is not None:
        moved = random.random(member.shape) < 1 - MISSING if missing else ~member
        member = np.where(late[:, None], moved, member)
    factors = panel.factors
    if factors.size:
        factors = new_array(factors.shape, np.float32)
        size = days_at_once(factors[0].size)
        for first in range(0, len(factors), size):
            block = slice(first, first + size)
            given = panel.factors[block]
            noise = noisy(given, random.normal(0, 10, given.shape))
            factors[block] = np.where(late[block, None, None], noise, given)
    return replace(
        panel,
        returns=changed(panel.returns, random.normal(0, 0.1, panel.returns.shape)),
        factors=factors,
        prices={
            name: changed(array, np.exp(random.normal(5, 2, array.shape)))
            for name, array in panel.prices.items()
        },
        member=member,
    )


def drop(panel: Panel, cut: int) -> Panel:
    """The panel as it was at the close of row `cut`."""
    upto = slice(0, cut + 1)
    dated = {
        f.name: getattr(panel, f.name)[upto]
        for f in fields(panel)
        if f.name in ("dates", "returns", "factors", "oracle", "member")
        and getattr(panel, f.name) is not None
    }
    prices = {name: array[upto] for name, array in panel.prices.items()}
    return replace(
        panel, prices=prices, session_gaps=tuple(b for b in panel.session_gaps if b <= cut), **dated
    )
