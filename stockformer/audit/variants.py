"""Variants of a panel with another future; results of the past must not change."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np

from stockformer.data.panel import Panel

WHOLE, REPLACED, DROPPED, REVALUED = "whole", "replaced", "dropped", "revalued"
MISSING = 0.3


def after(panel: Panel, cut: int, variant: str) -> Panel:
    """The panel with everything after row `cut` changed by the variant.

    replaced: noise, 30 % of it missing. dropped: removed. revalued: noise, missing where the panel
    is missing; membership is inverted. whole: unchanged.
    """
    if variant == WHOLE:
        return panel
    if variant == DROPPED:
        return drop(panel, cut)
    return garble(panel, cut, np.random.default_rng(cut), 0 if variant == REVALUED else MISSING)


def garble(panel: Panel, cut: int, random: np.random.Generator, missing: float) -> Panel:
    """Everything after row `cut` is noise; without `missing`, unknown cells stay unknown."""
    late = np.arange(len(panel.dates)) > cut

    def noisy(array: np.ndarray, noise: np.ndarray) -> np.ndarray:
        noise = np.where(random.random(array.shape) < missing, np.nan, noise)
        if not missing:
            noise = np.where(np.isnan(array), np.nan, noise)
        return np.where(late.reshape(-1, *[1] * (array.ndim - 1)), noise, array).astype(array.dtype)

    member = panel.member
    if member is not None:
        moved = random.random(member.shape) < 1 - MISSING if missing else ~member
        member = np.where(late[:, None], moved, member)
    return replace(
        panel,
        returns=noisy(panel.returns, random.normal(0, 0.1, panel.returns.shape)),
        factors=noisy(panel.factors, random.normal(0, 10, panel.factors.shape)),
        prices={
            name: noisy(array, np.exp(random.normal(5, 2, array.shape)))
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
