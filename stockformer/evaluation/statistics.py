"""Tests and confidence intervals of a daily mean, and the correction for many trials.

A series holds one number a signal date (a daily rank IC, a difference of two, a daily return). Days
without a number (NaN) are dropped and the rest are treated as consecutive; n is their number.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import stats

from stockformer.evaluation.quantities import format_p

FEW_DATES = 120
"""Below this many dates the intervals are too narrow, and a report notes it."""

MIN_DATES = 20
"""Below this many dates nothing is concluded: on noise the test rejects at twice its level."""

MAX_BLOCKS, MIN_BLOCKS, MIN_BLOCK = 16, 6, 4
"""Of `probability_of_overfitting`: numbers of blocks, and the dates in one."""

SIGNIFICANCE = 0.05
POWER = 0.8


@dataclass(frozen=True)
class MeanTest:
    """A mean with its Newey-West standard error and the two-sided test that it is zero.

    t and p are NaN with fewer than two days, and if every day is zero; if all days hold the same
    nonzero number, t is infinite.
    """

    mean: float
    n: int
    lag: int
    standard_error: float
    t: float
    p: float


def newey_west(series: np.ndarray | pd.Series, horizon: int) -> MeanTest:
    """Test of a zero mean that allows for autocorrelation.

    Bartlett weights with lag max(horizon - 1, floor(4 (n / 100)^(2/9))) (Newey and West 1987,
    1994), variance scaled by n / (n - 1), Student-t quantiles with n - 1 degrees of freedom. The
    horizon is the number of days a target spans: consecutive targets share horizon - 1 of them.
    """
    if horizon < 1:
        raise ValueError(f"newey_west: horizon must be >= 1, got {horizon}")
    values = _without_missing(series)
    n = len(values)
    if n < 2:
        mean = float(values.mean()) if n else np.nan
        return MeanTest(mean, n, 0, np.nan, np.nan, np.nan)
    standard_error, lag = newey_west_errors(values[:, None], horizon)
    mean = float(values.mean())
    with np.errstate(divide="ignore", invalid="ignore"):
        t = float(np.divide(mean, standard_error[0]))
    p = float(2 * stats.t.sf(abs(t), n - 1))
    return MeanTest(mean, n, lag, float(standard_error[0]), t, p)


def newey_west_errors(values: np.ndarray, horizon: int) -> tuple[np.ndarray, int]:
    """The standard errors (K,) of the means of K series, values (n, K) without NaN, and the lag.

    As in `newey_west`; zero where all days of a series hold the same number.
    """
    n = len(values)
    lag = min(max(horizon - 1, int(4 * (n / 100) ** (2 / 9))), n - 1)
    centred = values - values.mean(axis=0)
    variance = np.einsum("nk,nk->k", centred, centred)
    for distance in range(1, lag + 1):
        overlap = np.einsum("nk,nk->k", centred[distance:], centred[:-distance])
        variance += 2 * (1 - distance / (lag + 1)) * overlap
    errors = np.sqrt(variance / n / (n - 1))
    errors[np.ptp(values, axis=0) == 0] = 0.0
    return errors, lag


@dataclass(frozen=True)
class Estimate(MeanTest):
    """A mean with its test and its 95 % moving-block bootstrap interval, NaN below two days."""

    lower: float
    upper: float

    @property
    def few(self) -> bool:
        """Whether these are too few dates to conclude anything."""
        return self.n < MIN_DATES

    @property
    def sign(self) -> int:
        """1 significantly above zero, -1 significantly below, 0 not significant.

        The test and the interval, which are shown together, must agree.
        """
        return significant_sign(self.mean, self.p, self.lower, self.upper, self.n)

    def detectable(self, least_deviation: float = 0.0) -> float:
        """The smallest true mean that the test finds in 80 % of samples like this one.

        (t(0.975) + t(0.8)) standard errors, quantiles of Student's t with n - 1 degrees of freedom.
        least_deviation: a lower bound of the standard deviation of a day's value, if one is known;
        a few days may agree by chance. NaN below two days.
        """
        if self.n < 2:
            return np.nan
        error = max(self.standard_error, least_deviation / math.sqrt(self.n))
        quantiles = stats.t.ppf(np.array([1 - SIGNIFICANCE / 2, POWER]), self.n - 1)
        return float(np.sum(quantiles) * error)


def significant_sign(mean: float, p: float, lower: float, upper: float, n: float) -> int:
    """`Estimate.sign`, of figures as a record or a table has them."""
    if n < MIN_DATES or not p < SIGNIFICANCE or lower <= 0 <= upper:
        return 0
    return 1 if mean > 0 else -1


def p_value(p: float) -> str:
    """A p-value in a sentence."""
    return f"p {format_p(p)}".replace("<", "< ") if math.isfinite(p) else "no p"


def estimate(series: np.ndarray | pd.Series, horizon: int = 1, seed: int = 0) -> Estimate:
    """`newey_west` and `bootstrap_interval` of one series."""
    lower, upper = bootstrap_interval(series, seed=seed)
    return Estimate(**asdict(newey_west(series, horizon)), lower=lower, upper=upper)


def bootstrap_interval(
    series: np.ndarray | pd.Series,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of the mean from the moving-block bootstrap (Kuensch 1989).

    Blocks are ceil(n^(1/3)) days long, so that dependence over a few days survives the resampling.
    The same seed gives the same interval. (NaN, NaN) with fewer than two days.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"bootstrap_interval: confidence must be in (0, 1), got {confidence}")
    values = _without_missing(series)
    n = len(values)
    if n < 2:
        return np.nan, np.nan
    mean = values.mean()
    block, starts, lengths = _blocks(n, resamples, seed)
    running_sum = np.concatenate(([0.0], np.cumsum(values - mean)))
    deviation = (running_sum[starts + lengths] - running_sum[starts]).sum(axis=1) / n
    # Days near the ends lie in fewer blocks, and block means spread too little by 1 - block / n:
    # uncorrected, a 95 % interval over overlapping two-day targets covers 92.4 % at n = 250.
    deviation = (deviation - deviation.mean()) * np.sqrt(n / (n - block))
    tail = (1 - confidence) / 2
    lower, upper = mean + np.quantile(deviation, (tail, 1 - tail))
    return float(lower), float(upper)


def overlapping_interval(series: np.ndarray | pd.Series, overlap: int) -> tuple[float, float]:
    """95 % interval of the mean of a series whose consecutive days share `overlap` - 1 days.

    Newey-West with a lag of three times the days shared, because Bartlett weights at the usual lag
    miss a third of the variance that sums over shared days have, and with the critical values for
    such long lags (Kiefer and Vogelsang 2005, "A new asymptotic theory for heteroskedasticity-
    autocorrelation robust tests"). On noise the intervals cover 92 % for 10 days shared and 120
    dates, 90 % for 20. (NaN, NaN) with fewer than two days.
    """
    test = newey_west(series, 3 * overlap)
    if test.n < 2:
        return np.nan, np.nan
    width = critical_value((test.lag + 1) / test.n) * test.standard_error
    return test.mean - width, test.mean + width


def critical_value(bandwidth: float) -> float:
    """Two-sided 5 % critical value of a Newey-West t, bandwidth (lag + 1) / n in (0, 1]."""
    return 1.96 + 2.9694 * bandwidth + 0.416 * bandwidth**2 - 0.5324 * bandwidth**3


def no_skill_band(series: pd.Series, horizon: int) -> pd.DataFrame:
    """The running sum of a daily series, and where it stays 95 % of the time without skill.

    By date: cumulated, and lower, upper: at each date (not at all at once) the sum of a series of
    mean zero with this series' Newey-West variance is between them with 95 % probability. At the
    last date it is outside exactly if the mean's `newey_west` p is under 0.05. A date without a
    value adds nothing.
    """
    test = newey_west(series, horizon)
    known = series.notna().cumsum()
    quantile = stats.t.ppf(1 - SIGNIFICANCE / 2, test.n - 1) if test.n > 1 else np.nan
    width = quantile * test.standard_error * np.sqrt(known * test.n)
    cumulated = series.fillna(0.0).cumsum()
    return pd.DataFrame({"cumulated": cumulated, "lower": -width, "upper": width})


@lru_cache(maxsize=8)
def _blocks(n: int, resamples: int, seed: int) -> tuple[int, np.ndarray, np.ndarray]:
    """Length of a block, where each block of each resample starts, and how long it is."""
    block = min(int(np.ceil(round(n ** (1 / 3), 9))), n - 1)
    blocks = -(-n // block)
    lengths = np.full(blocks, block)
    lengths[-1] = n - block * (blocks - 1)
    starts = np.random.default_rng(seed).integers(0, n - block + 1, (resamples, blocks))
    return block, starts, lengths


def paired_comparison(a: pd.Series, b: pd.Series, horizon: int) -> MeanTest:
    """Newey-West test of the daily differences a - b of two models on the same dates.

    A day is dropped where either is missing. Raises ValueError where the dates differ.
    """
    if not a.index.equals(b.index):
        raise ValueError(
            "paired_comparison: the series are on different dates"
            f" ({len(a)} from {a.index.min()} to {a.index.max()},"
            f" {len(b)} from {b.index.min()} to {b.index.max()})"
        )
    return newey_west(a - b, horizon)


def summary(daily: pd.DataFrame, horizon: int, seed: int = 0) -> pd.DataFrame:
    """The statistics that a report prints with every mean: one row a column of `daily`.

    Columns mean, n, lag, standard_error, t, p, lower, upper (95 % moving-block bootstrap).
    """
    rows = {name: asdict(estimate(series, horizon, seed)) for name, series in daily.items()}
    return pd.DataFrame.from_dict(rows, orient="index")


def sharpe_ratio(returns: np.ndarray | pd.Series) -> float:
    """Mean over standard deviation (n - 1) of daily returns, not annualised; NaN where constant."""
    values = _without_missing(returns)
    if len(values) < 2 or np.ptp(values) == 0:
        return np.nan
    return float(values.mean() / values.std(ddof=1))


def expected_maximum_sharpe(trial_sharpes: np.ndarray, n_trials: int | None = None) -> float:
    """The Sharpe ratio that the best of this many trials without skill would show.

    sd(trials) ((1 - g) Phi^-1(1 - 1/N) + g Phi^-1(1 - 1/(N e))), g the Euler-Mascheroni constant:
    Bailey and Lopez de Prado (2014), "The Deflated Sharpe Ratio". Zero for a single trial,
    NaN where of several only one has a known ratio.
    n_trials: N, if some trials have no known ratio.
    """
    trials = np.asarray(trial_sharpes, dtype=np.float64)
    if len(trials) == 0 or not np.isfinite(trials).all():
        raise ValueError(
            f"expected_maximum_sharpe: needs the Sharpe ratio of every trial, got {trials}"
        )
    count = max(len(trials), n_trials or 0)
    if len(trials) == 1:
        return 0.0 if count == 1 else math.nan
    return float(trials.std(ddof=1) * expected_maximum(count))


def expected_maximum(trials: int) -> float:
    """Of that many (at least two) independent standard normal variables, by the formula above."""
    quantile_1 = stats.norm.ppf(1 - 1 / trials)
    quantile_2 = stats.norm.ppf(1 - 1 / (trials * np.e))
    return float((1 - np.euler_gamma) * quantile_1 + np.euler_gamma * quantile_2)


def probabilistic_sharpe_ratio(
    sharpe: float, benchmark: float, n: int, skewness: float, kurtosis: float
) -> float:
    """Probability that the true Sharpe ratio exceeds the benchmark, both daily.

    kurtosis is that of the fourth standardised moment (3 for a normal). Bailey and Lopez de Prado
    (2012), "The Sharpe Ratio Efficient Frontier".
    """
    spread = np.sqrt(1 - skewness * sharpe + (kurtosis - 1) / 4 * sharpe**2)
    return float(stats.norm.cdf((sharpe - benchmark) * np.sqrt(n - 1) / spread))


def deflated_sharpe_ratio(
    returns: np.ndarray | pd.Series, trial_sharpes: np.ndarray, n_trials: int | None = None
) -> float:
    """Probability that the selected trial's Sharpe ratio is more than selection bias.

    returns: the selected trial's daily returns in excess of a benchmark without skill (the
    universe), on the dates used for the selection; measured against zero, any long-only noise looks
    skilled in a rising universe. trial_sharpes (N,): the daily Sharpe ratio, not annualised, of the
    same returns of every completed trial, including the selected one; n_trials: as in
    `expected_maximum_sharpe`. NaN if the returns do not vary.
    """
    values = _without_missing(returns)
    sharpe = sharpe_ratio(values)
    maximum = expected_maximum_sharpe(trial_sharpes, n_trials)
    if np.isnan(sharpe):
        return np.nan
    skewness, kurtosis = stats.skew(values), stats.kurtosis(values, fisher=False)
    return probabilistic_sharpe_ratio(sharpe, maximum, len(values), skewness, kurtosis)


def probability_of_overfitting(returns: pd.DataFrame) -> float | None:
    """By combinatorially symmetric cross-validation of daily returns.

    returns: dates by configurations; only dates with a return of all of them count. They are cut
    into S blocks (16, or fewer so that a block has 4 dates). For every choice of half of the blocks
    the configuration with the highest Sharpe ratio there is ranked among the N by its Sharpe ratio
    on the other half. Its rank is in the lower half if rank / (N + 1) is at most 1/2: Bailey,
    Borwein, Lopez de Prado and Zhu (2015), "The Probability of Backtest Overfitting". None for
    fewer than two configurations, or too few dates for 6 blocks.
    """
    values = returns.dropna().to_numpy(np.float64)
    dates, count = values.shape
    blocks = min(MAX_BLOCKS, dates // MIN_BLOCK // 2 * 2)
    if count < 2 or blocks < MIN_BLOCKS:
        return None
    parts = np.array_split(values, blocks)
    # The moments of any union of blocks are sums over them.
    moments = np.array([[np.full(count, len(p)), p.sum(0), (p**2).sum(0)] for p in parts])
    chosen = np.array(list(combinations(range(blocks), blocks // 2)))
    masks = np.zeros((len(chosen), blocks))
    np.put_along_axis(masks, chosen, 1.0, axis=1)
    inside = np.tensordot(masks, moments, axes=1)
    fitted, held_out = (_sharpe_of_moments(m) for m in (inside, moments.sum(0) - inside))
    best = np.argmax(fitted, axis=1)
    ranks = stats.rankdata(held_out, axis=1)[np.arange(len(best)), best]
    return float(np.mean(ranks / (count + 1) <= 0.5))


def _sharpe_of_moments(moments: np.ndarray) -> np.ndarray:
    """From (number, sum, sum of squares) on axis 1; zero where the returns are constant."""
    number, total, squares = np.moveaxis(moments, 1, 0)
    mean = total / number
    variance = np.maximum(squares / number - mean**2, 0.0)
    return np.divide(mean, np.sqrt(variance), out=np.zeros_like(mean), where=variance > 1e-18)


def _without_missing(series: np.ndarray | pd.Series) -> np.ndarray:
    values = np.asarray(series, dtype=np.float64)
    if np.isinf(values).any():
        raise ValueError("statistics: the series holds an infinite value")
    return values[~np.isnan(values)]
