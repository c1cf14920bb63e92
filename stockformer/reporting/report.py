"""A run's report: its sections, each made from the run's files."""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from stockformer.evaluation import forecasts
from stockformer.evaluation.metrics import LOSSES, METRICS
from stockformer.evaluation.predictions import daily
from stockformer.evaluation.quantities import TRAINING_TIME, Quantity, format_count
from stockformer.reporting import (
    attribution_section,
    explorer_section,
    figures,
    money_section,
    probabilities_section,
    signal_section,
    tables,
)
from stockformer.reporting.page import Page, Plot, Section, Text, address, require_html
from stockformer.reporting.signal_section import NO_PREDICTIONS
from stockformer.reporting.trading_section import backtest
from stockformer.runs.console import program
from stockformer.runs.folder import RunDir
from stockformer.runs.recorded_run import RecordedRun, read_run

log = logging.getLogger(__name__)


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
        signal_section.section(run),
        money_section.section(run),
        probabilities_section.section(run),
        explorer_section.section(run),
        attribution_section.section(run),
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
