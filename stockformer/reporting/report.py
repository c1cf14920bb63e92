"""A run's report: its sections, each made from the run's files."""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd

from stockformer.evaluation import forecasts
from stockformer.evaluation.metrics import LOSSES, METRICS
from stockformer.evaluation.predictions import calibration, daily, rank_stability
from stockformer.evaluation.quantities import TRAINING_TIME, Quantity, format_count
from stockformer.evaluation.statistics import FEW_DATES
from stockformer.reporting import figures, tables, verdict_section
from stockformer.reporting.page import Page, Plot, Section, Text, address, require_html
from stockformer.reporting.trading_section import backtest
from stockformer.runs.console import program
from stockformer.runs.folder import RunDir
from stockformer.runs.recorded_run import RecordedRun, read_run

log = logging.getLogger(__name__)

CALIBRATION_BINS = 20
DOWNLOADS = {
    "predictions.parquet": "predictions",
    "evaluation.json": "evaluation",
    "metrics.csv": "metrics by epoch",
    "trades.csv": "trades",
    "positions.csv": "positions",
    "equity.csv": "equity",
}
"""Files of a run with their titles on its page."""
NO_PREDICTIONS = "The run has no test predictions."


def write_report(run: RecordedRun, output: Path | None) -> Path:
    """Write the page, completely or not at all: to `output`, by default into the run's folder.

    Returns its path. Raises ValueError if it cannot be written.
    """
    path = output or RunDir(run.path).report_file
    require_html(path)  # fail before the work
    return page(run, path.parent).write(path)


def try_report(folder: Path) -> None:
    """Write the report of a run that has just ended; any failure is only a warning.

    The run is complete without a report, and analyze.py shows the error.
    """
    try:
        path = write_report(read_run(folder), None)
    except Exception as error:
        log.warning(
            "no report (%s: %s); %s writes it", type(error).__name__, error, program("analyze")
        )
    else:
        log.info("report: %s", path)


def page(run: RecordedRun, page_folder: Path) -> Page:
    """All sections, the verdict first. page_folder: the folder that the page is written to."""
    sections = [
        verdict_section.lead(run),
        signal(run),
        money(run),
        probabilities(run),
        best_and_worst(run),
        training(run),
        data(run, page_folder),
    ]
    evaluation = run.evaluation
    return Page(
        kind="run",
        name=run.name,
        headline=run.headline if evaluation is None else evaluation.answers.headline,
        subtitle=tables.subtitle(run),
        state=run.status.state,
        sections=sections,
        card=[] if evaluation is None else verdict_section.card(evaluation),
        strip=[] if evaluation is None else verdict_section.strip(run, evaluation),
    )


def signal(run: RecordedRun) -> Section:
    """The metrics of the forecasts by day, and what the ranking is worth at its ends."""
    title, predictions = "Signal", run.predictions
    if predictions is None or not predictions.valid.any():
        return Section(title, _without(run), anchor="signal")
    days = daily(predictions)
    by_day, cumulated = figures.metric_by_day, figures.cumulated_by_day
    mean = "Dashed: the mean. Good: most bars on its side of zero, none that carries it alone."
    climbs = "Good: a steady climb. By chance it wanders."
    frame = predictions.frame()
    cells = frame[frame["valid"]]
    quantiles = forecasts.quantile_returns(cells)
    dates = pd.DatetimeIndex(days.index)
    counts = days["rank_ic"].groupby([dates.year, dates.month]).count()
    return Section(
        title,
        f"{format_count(len(days), 'signal date')}. Each metric is computed across the stocks of a "
        "date, then averaged over dates. Intervals: moving-block bootstrap; t and p: Newey-West, "
        f"against zero. Below {FEW_DATES} dates both are too narrow.",
        plots=[
            Plot("Rank IC, cumulated", cumulated(days, "rank_ic"), climbs),
            Plot("Rank IC by day", by_day(days, "rank_ic"), mean),
            Plot("Rank IC, distribution", figures.metric_distribution(days, "rank_ic"), mean),
            Plot("IC, cumulated", cumulated(days, "ic"), climbs),
            Plot("IC by day", by_day(days, "ic"), mean),
            Plot(
                "Return by quantile",
                figures.quantile_means(quantiles),
                "Excess over the mean of the date's stocks, before costs, of fifths by forecast. "
                "Good: bars that rise from left to right, so that the whole ranking is "
                "informative, not only its ends.",
            ),
            Plot(
                "Return by quantile, cumulated",
                figures.quantiles_cumulated(quantiles),
                "Good: lines that fan out in the order of the quantiles.",
            ),
            Plot(
                "Stability of the ranking",
                figures.stability_by_day(rank_stability(predictions)),
                "At 1 the ranking never changes; the lower it is, the higher the turnover. Good: "
                "as high as the skill allows.",
            ),
        ],
        details=[
            tables.scores(predictions),
            tables.by_month(
                forecasts.rank_ic_by_month(days), "Rank IC by month", METRICS["rank_ic"], counts
            ),
        ],
        anchor="signal",
    )


def money(run: RecordedRun) -> Section:
    """From signal to money: the backtest."""
    return replace(backtest(run), title="From signal to money", anchor="money")


def probabilities(run: RecordedRun) -> Section:
    """The size of forecasts, and the calibration of their probabilities."""
    title, predictions = "Probabilities", run.predictions
    if predictions is None or not predictions.valid.any():
        return Section(title, _without(run), anchor="probabilities")
    frame = predictions.frame()
    cells = frame[frame["valid"]]
    levels = [] if run.evaluation is None else run.evaluation.sentences[:1]
    return Section(
        title,
        " ".join(sentence for sentence in levels if sentence.startswith("As level forecasts")),
        plots=[
            Plot(
                "Calibration",
                figures.calibration(calibration(predictions, CALIBRATION_BINS)),
                "Forecasts binned by probability; the larger a marker, the more forecasts. Good: "
                "markers on the dashed line, and not all in one place.",
            ),
            Plot(
                "Prediction against outcome",
                figures.outcome_by_prediction(forecasts.outcome_by_prediction(cells)),
                "Ten bins of equally many forecasts. Good: markers that rise; on the dashed line "
                "forecasts are also right in size.",
            ),
        ],
        anchor="probabilities",
    )


def _without(run: RecordedRun) -> str:
    """Why there is nothing to measure."""
    if run.predictions is None:
        return NO_PREDICTIONS
    return (
        "None of the test predictions can be scored: no stock has a known outcome on these dates "
        "(no valid cell). Look at the data quality report, and at the dates of the split."
    )


def best_and_worst(run: RecordedRun) -> Section:
    """The dates and stocks that contribute most and least to the rank IC."""
    title, predictions = "Best and worst dates and stocks", run.predictions
    if predictions is None or not predictions.valid.any():
        return Section(title, _without(run), anchor="explorer")
    frame = predictions.frame()
    stocks = forecasts.rank_ic_by_stock(frame[frame["valid"]])
    return Section(
        title,
        "A stock's share of the rank IC: the shares of all stocks add up to the mean. The backtest "
        "section has its own tables. Do not exclude stocks or dates because of these tables: that "
        "would be selection on the test dates.",
        [
            *tables.days_by(daily(predictions), "rank_ic", "Dates by rank IC"),
            *tables.stocks_by_rank_ic(stocks),
        ],
        anchor="explorer",
    )


def training(run: RecordedRun) -> Section:
    """Training curves by epoch."""
    title, metrics = "Training", run.metrics
    if metrics is None:
        return Section(title, "No epoch was completed.", anchor="training")
    tested = None if run.evaluation is None else run.evaluation.epoch
    plots = [
        Plot(quantity.title[0].upper() + quantity.title[1:], curve)
        for name, quantity in _curves().items()
        for curve in [figures.training_curve(metrics, name, quantity, tested)]
    ]
    if "learning_rate" in metrics:  # a model that is fitted at once has none
        plots.insert(-1, Plot("Learning rate", figures.learning_rate(metrics)))
    marked = "" if tested is None else f" Dotted: epoch {tested}, the tested one."
    good = " Good: both curves fall together; validation that turns up is overfitting."
    lead = f"{format_count(len(metrics), 'epoch')}.{marked}{good}"
    return Section(title, lead, plots=plots, anchor="training")


def _curves() -> dict[str, Quantity]:
    """Quantities shown by epoch: names in metrics.csv without the prefix of the split."""
    brief = {name: metric for name, metric in METRICS.items() if metric.brief}
    return LOSSES | brief | {"seconds": TRAINING_TIME}


def data(run: RecordedRun, page_folder: Path) -> Section:
    """The data and warnings on them, how to reproduce the run, and its files."""
    title, manifest = "Data, reproduction, downloads", run.manifest
    configuration = [Text("Configuration", run.config)] if run.config is not None else []
    own = RunDir(run.path)
    named = {DOWNLOADS[name]: run.path / name for name in DOWNLOADS}
    links = {
        title: address(file, page_folder)
        for title, file in {"data quality report": own.quality_file, **named}.items()
        if file.exists()
    }
    if manifest is None:
        lead = "The run has no record of its data and of its provenance."
        return Section(title, lead, links=links, texts=configuration, anchor="data")
    train = f"{program('train')} {shlex.join(run.overrides or ())}".rstrip()
    return Section(
        title,
        "" if manifest.warnings else "No warnings about the data.",
        [tables.split(manifest.split), tables.facts(manifest)],
        manifest.warnings,
        links=links,
        commands=reproduction(manifest.git_commit, str(manifest.facts.get("command", train))),
        texts=[
            *configuration,
            Text(f"Stocks ({len(manifest.tickers)})", ", ".join(manifest.tickers)),
            Text(f"Factors ({len(manifest.factor_names)})", ", ".join(manifest.factor_names)),
            Text(f"Files read ({len(manifest.files)}), SHA-256", hashes(manifest.files)),
        ],
        anchor="data",
    )


def reproduction(git_commit: str, command: str) -> list[str]:
    """The commands that reproduce the run."""
    commit = git_commit.removesuffix("+changes")
    if not re.fullmatch("[0-9a-f]+", commit):
        return [f"# the code's commit is unknown: {commit}", command]
    lines = [f"git checkout {commit}", command]
    if commit != git_commit:
        lines.insert(0, "# the checkout had changes that are not in this commit")
    return lines


def hashes(files: Mapping[str, str]) -> str:
    return "\n".join(f"{digest}  {name}" for name, digest in files.items())
