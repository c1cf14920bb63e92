"""Ridge regression and boosted trees, as baselines and models fit them. R rows, F columns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import lightgbm


def ridge_weights(
    inputs: np.ndarray, target: np.ndarray, penalties: Iterable[float]
) -> list[np.ndarray]:
    """The weights (F,) for each penalty of their squares, in closed form and without intercept.

    inputs (R, F), target (R,).
    """
    gram = (inputs.T @ inputs).astype(np.float64)
    moments = inputs.T @ target.astype(inputs.dtype)
    found = []
    for penalty in penalties:
        penalised = gram.copy()
        penalised[np.diag_indices_from(gram)] += penalty
        found.append(np.linalg.solve(penalised, moments))
    return found


@dataclass(frozen=True)
class Boosting:
    """Settings of LightGBM, under its own names."""

    n_estimators: int
    learning_rate: float
    num_leaves: int
    min_child_samples: int
    colsample_bytree: float
    subsample: float
    reg_lambda: float


def boosted_trees(
    inputs: np.ndarray, target: np.ndarray, settings: Boosting, seed: int
) -> lightgbm.Booster:
    """Boosted trees on inputs (R, F), target (R,); the same on every run."""
    import lightgbm  # noqa: PLC0415 - takes a second to load

    regressor = lightgbm.LGBMRegressor(
        **asdict(settings),
        subsample_freq=1,
        random_state=seed,
        deterministic=True,
        force_row_wise=True,
        # On shared cores the threads wait for each other: two took four times as long as one.
        n_jobs=1,
        verbose=-1,
    )
    return regressor.fit(inputs, target).booster_
