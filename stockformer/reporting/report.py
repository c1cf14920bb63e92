"""A run's report: its sections, each made from the run's files."""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from stockformer.evaluation.metrics import LOSSES, METRICS
from stockformer.evaluation.quantities import TRAINING_TIME, Quantity, format_count
from stockformer.reporting import (
    attribution_section,
    explorer_section,
    figures,
    money_section,
    probabilities_section,
    signal_section,
    tables,
    verdict_section,
)
from stockformer.reporting.page import Page, Plot, Section, Text, address, require_html
from stockformer.runs.console import program
from stockformer.runs.folder import RunDir
from stockformer.runs.recorded_run import RecordedRun, read_run

log = logging.getLogger(__name__)

DOWNLOADS = {
    "predictions.parquet": "predictions",
    "evaluation.json": "evaluation",
    "metrics.csv": "metrics by epoch",
    "importance.json": "importance of the inputs",
    "trades.csv": "trades",
    "positions.csv": "positions",
    "equity.csv": "equity",
}
"""Files of a run with their titles on its page."""


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
        signal_section.section(run),
        money_section.section(run),
        probabilities_section.section(run),
        explorer_section.section(run),
        attribution_section.section(run),
        training(run),
        data(run, page_folder),
    ]
    evaluation = run.evaluation
    return Page(
        kind="run",
        name=run.name,
        headline=run.headline if run.answers is None else run.answers.headline,
        subtitle=tables.subtitle(run),
        state=run.status.state,
        sections=sections,
        card=[] if run.answers is None else verdict_section.card(run.answers),
        strip=[] if evaluation is None else verdict_section.strip(run, evaluation),
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
