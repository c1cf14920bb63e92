"""Which settings went with which score, and which of two runs is better: of many trials at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from stockformer.evaluation.statistics import newey_west_errors, paired_comparison

UNRELIABLE_TRIALS = 30
"""Below this many trials an importance is called unreliable."""
MIN_TRIALS = 8
"""Below this many there is no importance."""
FOLDS = 5


@dataclass(frozen=True)
class Importance:
    """By setting: how much less of the variance of the validation metric a forest explains on
    trials it has not seen when that setting is shuffled; explained: how much it explains (R2)."""

    trials: int
    explained: float
    drop: pd.Series


def importance(settings: pd.DataFrame, score: pd.Series) -> Importance | None:
    """Permutation importance in a random forest (Breiman 2001), on trials left out of the fit.

    Not Optuna's: that needs a study, which a grid or a folder of single runs does not have, and
    evaluates the forest on the trials it was fitted on.

    None below `MIN_TRIALS` with a score, or where neither settings nor scores vary.
    """
    # A third of a second, which not every command that prints a table should take.
    from sklearn.ensemble import RandomForestRegressor  # noqa: PLC0415
    from sklearn.inspection import permutation_importance  # noqa: PLC0415
    from sklearn.model_selection import KFold  # noqa: PLC0415

    known = np.isfinite(score)
    settings, score = settings[known], score[known]
    codes = settings.apply(levels).rank(method="dense")  # a tree asks for the order alone
    codes = codes.loc[:, codes.nunique() > 1]
    if len(score) < MIN_TRIALS or codes.empty or score.nunique() < 2:
        return None
    target = score.to_numpy()
    drops, residual = [], np.zeros_like(target)
    for fit, held_out in KFold(FOLDS, shuffle=True, random_state=0).split(codes):
        forest = RandomForestRegressor(100, random_state=0, max_features=0.5)
        forest.fit(codes.to_numpy()[fit], target[fit])
        inputs = codes.to_numpy()[held_out]
        residual[held_out] = target[held_out] - forest.predict(inputs)
        shuffled = permutation_importance(
            forest,
            inputs,
            target[held_out],
            scoring="neg_mean_squared_error",
            n_repeats=10,
            random_state=0,
        )
        drops.append(shuffled.importances_mean * len(held_out))
    variance = target.var()
    drop = np.sum(drops, axis=0) / len(target) / variance
    return Importance(
        trials=len(target),
        explained=float(1 - np.mean(residual**2) / variance),
        drop=pd.Series(drop, index=codes.columns).sort_values(ascending=False),
    )


def levels(column: pd.Series) -> pd.Series:
    """A setting as numbers: its own where all of them are, else the place among its values."""
    numbers = pd.to_numeric(column, errors="coerce")
    if numbers.notna().all():
        return numbers.astype(float)
    order = {value: place for place, value in enumerate(sorted(set(column)))}
    return column.map(order).astype(float)


def paired_tests(rank_ic: pd.DataFrame, horizon: int) -> pd.DataFrame:
    """`paired_comparison` of every two columns: mean, n, t, p, a row a pair (i < j, row by row).

    Newey-West of all pairs at once, because 200 runs make 19,900 of them.
    """
    values = rank_ic.to_numpy()
    first, second = np.triu_indices(values.shape[1], k=1)
    tests = np.full((len(first), 4), np.nan)
    whole = np.isfinite(values).all(axis=0)
    fast = whole[first] & whole[second] & (len(values) > 1)
    if fast.any():
        differences = values[:, first[fast]] - values[:, second[fast]]
        mean, n = differences.mean(axis=0), len(values)
        with np.errstate(divide="ignore", invalid="ignore"):
            t = mean / newey_west_errors(differences, horizon)[0]
        p = 2 * stats.t.sf(np.abs(t), n - 1)
        tests[fast] = np.column_stack([mean, np.full_like(mean, n), t, p])
    for pair in np.flatnonzero(~fast):
        a, b = rank_ic.iloc[:, first[pair]], rank_ic.iloc[:, second[pair]]
        test = paired_comparison(a, b, horizon)
        tests[pair] = test.mean, test.n, test.t, test.p
    return pd.DataFrame(tests, columns=["mean", "n", "t", "p"])
