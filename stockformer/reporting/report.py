"""A run's report: its sections, each made from the run's files."""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from stockformer.evaluation import forecasts
from stockformer.evaluation.metrics import LOSSES, METRICS
from stockformer.evaluation.predictions import calibration, daily, rank_stability
from stockformer.evaluation.quantities import TRAINING_TIME, Quantity, format_count
from stockformer.evaluation.statistics import FEW_DATES
from stockformer.reporting import figures, tables
from stockformer.reporting.page import Page, Plot, Section, Text, address, require_html
from stockformer.reporting.trading_section import backtest
from stockformer.runs.console import program
from stockformer.runs.folder import RunDir
from stockformer.runs.recorded_run import RecordedRun, read_run

log = logging.getLogger(__name__)

CALIBRATION_BINS = 20
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
        comparison(run),
        on_test_dates(run),
        forecasts_taken_apart(run),
        backtest(run),
        best_and_worst(run),
        training(run),
        data_quality(run, page_folder),
        provenance(run),
    ]
    return Page("run", run.name, run.headline, tables.subtitle(run), run.status.state, sections)


def comparison(run: RecordedRun) -> Section:
    """The model and the baselines, project targets and caveats."""
    title, table, evaluation = "Against the baselines", run.comparison, run.evaluation
    if table is None:
        return Section(title, "The run has not been tested.")
    if evaluation is None:
        return Section(title, "The run has no evaluation.json.", tables.comparison(table))
    return Section(
        title,
        tables.HOW_TO_READ_COMPARISON,
        [*tables.comparison(table), *([tables.targets(evaluation)] if evaluation.targets else [])],
        [*evaluation.sentences, *tables.remarks(evaluation)],
    )


def on_test_dates(run: RecordedRun) -> Section:
    """The metrics of the forecasts by day."""
    title, predictions = "On the test dates", run.predictions
    if predictions is None:
        return Section(title, NO_PREDICTIONS)
    days = daily(predictions)
    by_day, cumulated = figures.metric_by_day, figures.cumulated_by_day
    mean, climbs = "Dashed: the mean.", "With skill it climbs steadily; by chance it wanders."
    return Section(
        title,
        f"{format_count(len(days), 'signal date')}. Each metric is computed across the stocks of a "
        "date, then averaged over dates. Intervals: moving-block bootstrap; t and p: Newey-West, "
        f"against zero. Below {FEW_DATES} dates both are too narrow.",
        [
            tables.scores(predictions),
            tables.by_month(
                forecasts.rank_ic_by_month(days), "Rank IC by month", METRICS["rank_ic"]
            ),
        ],
        plots=[
            Plot("Rank IC by day", by_day(days, "rank_ic"), mean),
            Plot("Rank IC, cumulated", cumulated(days, "rank_ic"), climbs),
            Plot("Rank IC, distribution", figures.metric_distribution(days, "rank_ic"), mean),
            Plot("IC by day", by_day(days, "ic"), mean),
            Plot("IC, cumulated", cumulated(days, "ic"), climbs),
            Plot("MAE by day", by_day(days, "mae"), mean),
        ],
    )


def forecasts_taken_apart(run: RecordedRun) -> Section:
    """Returns by forecast quantile, the size of forecasts, and their calibration."""
    title, predictions = "Forecasts", run.predictions
    if predictions is None:
        return Section(title, NO_PREDICTIONS)
    frame = predictions.frame()
    cells = frame[frame["valid"]]
    quantiles = forecasts.quantile_returns(cells)
    return Section(
        title,
        "Excess: over the mean of the date's stocks. Before costs.",
        plots=[
            Plot(
                "Return by quantile",
                figures.quantile_means(quantiles),
                "Fifths of each date's stocks by forecast. If the bars rise from left to right, "
                "the whole ranking is informative, not only its ends.",
            ),
            Plot("Return by quantile, cumulated", figures.quantiles_cumulated(quantiles)),
            Plot(
                "Prediction against outcome",
                figures.outcome_by_prediction(forecasts.outcome_by_prediction(cells)),
                "Ten bins of equally many forecasts. On the dashed line, forecasts are right in "
                "size; if the markers rise, they are right at least in direction.",
            ),
            Plot(
                "Calibration",
                figures.calibration(calibration(predictions, CALIBRATION_BINS)),
                "Forecasts binned by probability; the larger a marker, the more forecasts. On the "
                "dashed line, probabilities are calibrated.",
            ),
            Plot(
                "Stability of the ranking",
                figures.stability_by_day(rank_stability(predictions)),
                "At 1 the ranking never changes; the lower it is, the higher the turnover.",
            ),
        ],
    )


def best_and_worst(run: RecordedRun) -> Section:
    """The dates and stocks that contribute most and least to the rank IC."""
    title, predictions = "Best and worst", run.predictions
    if predictions is None:
        return Section(title, NO_PREDICTIONS)
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
    )


def training(run: RecordedRun) -> Section:
    """Training curves by epoch."""
    title, metrics = "Training", run.metrics
    if metrics is None:
        return Section(title, "No epoch was completed.")
    tested = None if run.evaluation is None else run.evaluation.epoch
    plots = [
        Plot(quantity.title[0].upper() + quantity.title[1:], curve)
        for name, quantity in _curves().items()
        for curve in [figures.training_curve(metrics, name, quantity, tested)]
    ]
    if "learning_rate" in metrics:  # a model that is fitted at once has none
        plots.insert(-1, Plot("Learning rate", figures.learning_rate(metrics)))
    marked = "" if tested is None else f" Dotted: epoch {tested}, the tested one."
    return Section(title, f"{format_count(len(metrics), 'epoch')}.{marked}", plots=plots)


def _curves() -> dict[str, Quantity]:
    """Quantities shown by epoch: names in metrics.csv without the prefix of the split."""
    brief = {name: metric for name, metric in METRICS.items() if metric.brief}
    return LOSSES | brief | {"seconds": TRAINING_TIME}


def data_quality(run: RecordedRun, page_folder: Path) -> Section:
    """Warnings on the data, the split, and the link to the data quality report."""
    title, file = "Data", RunDir(run.path).quality_file
    if run.manifest is None:
        return Section(title, "The run has no record of its data.")
    title_of_link = "The data quality report of this run"
    links = {title_of_link: address(file, page_folder)} if file.exists() else {}
    lead = "" if run.manifest.warnings else "No warnings."
    return Section(
        title,
        lead,
        [tables.split(run.manifest.split)],
        run.manifest.warnings,
        links=links,
    )


def provenance(run: RecordedRun) -> Section:
    """Where the run comes from, and how to reproduce it."""
    title, manifest = "Provenance", run.manifest
    configuration = [Text("Configuration", run.config)] if run.config is not None else []
    if manifest is None:
        lead = "The run has no record of its provenance."
        return Section(title, lead, texts=configuration)
    train = f"{program('train')} {shlex.join(run.overrides or ())}".rstrip()
    return Section(
        title,
        tables=[tables.facts(manifest)],
        commands=reproduction(manifest.git_commit, str(manifest.facts.get("command", train))),
        texts=[
            *configuration,
            Text(f"Stocks ({len(manifest.tickers)})", ", ".join(manifest.tickers)),
            Text(f"Factors ({len(manifest.factor_names)})", ", ".join(manifest.factor_names)),
            Text(f"Files read ({len(manifest.files)}), SHA-256", hashes(manifest.files)),
        ],
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
