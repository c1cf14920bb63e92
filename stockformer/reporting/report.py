"""A run's report: sections, each made from what the run left, rendered as one HTML file."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from stockformer.evaluation.metrics import calibration, daily
from stockformer.evaluation.statistics import FEW_DATES
from stockformer.reporting import figures, tables
from stockformer.reporting.quantities import METRICS, Quantity, tell_count
from stockformer.reporting.run_reader import RecordedRun
from stockformer.reporting.tables import Table
from stockformer.run import RunDir

CURVES = {
    "loss": Quantity("total loss", "no unit", 4),
    "regression_loss": Quantity("regression loss", "no unit", 5),
    "classification_loss": Quantity("classification loss", "nats", 4),
    "mae": METRICS["mae"],
    "accuracy": METRICS["accuracy"],
    "rank_ic": METRICS["rank_ic"],
    "seconds": Quantity("training time", "seconds", 1),
}
CALIBRATION_BINS = 20


@dataclass(frozen=True)
class Plot:
    """A figure under its title; the caption says how to read it."""

    title: str
    figure: go.Figure
    caption: str = ""

    def json(self) -> Markup:
        """For a script element, which only a `<` can end."""
        return Markup(self.figure.to_json().replace("<", "\\u003c"))


@dataclass(frozen=True)
class Text:
    """Something long, word for word, folded away."""

    title: str
    text: str


@dataclass(frozen=True)
class Section:
    """What stands under one heading, in this order."""

    title: str
    lead: str = ""
    tables: Sequence[Table] = ()
    remarks: Sequence[str] = ()
    plots: Sequence[Plot] = ()
    commands: Sequence[str] = ()
    texts: Sequence[Text] = ()


def write_report(run: RecordedRun, output: Path | None) -> Path:
    """Write the page, whole or not at all: to `output`, by default into the run's folder.

    Returns where it lies. Raises ValueError where it cannot be written.
    """
    path = output or RunDir(run.path).report_file
    if path.suffix != ".html":
        raise ValueError(f"output={path}: must end in .html")
    page, temporary = render(run), path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(page, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ValueError(
            f"{path}: cannot be written ({error.strerror}); name another place with output=FILE"
        ) from error
    return path


def render(run: RecordedRun) -> str:
    """The page. Whatever text comes from the run is escaped by the template."""
    environment = Environment(
        loader=PackageLoader("stockformer", "reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    sections = [comparison(run), on_test_dates(run), training(run), origin(run)]
    return environment.get_template("template.html").render(
        run=run, subtitle=tables.subtitle(run), sections=sections, plotly=Markup(get_plotlyjs())
    )


def comparison(run: RecordedRun) -> Section:
    """The model beside the baselines, the first targets, and what to bear in mind."""
    title, table, evaluation = "Against the baselines", run.comparison, run.evaluation
    if table is None:
        return Section(title, "The run has not been tested.")
    if evaluation is None:
        return Section(title, "The run was not compared with any.", [tables.comparison(table)])
    return Section(
        title,
        tables.HOW_TO_READ_COMPARISON,
        [tables.comparison(table), tables.targets(evaluation)],
        tables.remarks(evaluation),
    )


def on_test_dates(run: RecordedRun) -> Section:
    """How the forecasts did day by day, and how far they can be taken at their word."""
    title, predictions = "On the test dates", run.predictions
    if predictions is None:
        return Section(title, "The run left no test predictions.")
    days, frame = daily(predictions), predictions.frame()
    return Section(
        title,
        f"{tell_count(len(days), 'signal date')}. Each metric is taken across the stocks of a "
        "date, then averaged over dates. Intervals: moving-block bootstrap; t and p: Newey-West, "
        f"against zero. Below {FEW_DATES} dates both are too narrow.",
        [tables.scores(predictions)],
        plots=[
            Plot("Rank IC by day", figures.metric_by_day(days, "rank_ic"), "Dashed: the mean."),
            Plot(
                "Rank IC, cumulated",
                figures.cumulated_by_day(days, "rank_ic"),
                "Skill climbs steadily; luck wanders.",
            ),
            Plot(
                "Prediction against outcome",
                figures.outcome_by_prediction(frame[frame["valid"]]),
                "Ten bins of equally many forecasts. On the dashed line, forecasts are right in "
                "size; where the markers rise, at least in direction.",
            ),
            Plot(
                "Calibration",
                figures.calibration(calibration(predictions, CALIBRATION_BINS)),
                "Forecasts binned by probability; the larger a marker, the more forecasts. On the "
                "dashed line, probabilities mean what they say.",
            ),
        ],
    )


def training(run: RecordedRun) -> Section:
    """How each epoch went, by task."""
    title, metrics = "Training", run.metrics
    if metrics is None:
        return Section(title, "No epoch was completed.")
    tested = None if run.evaluation is None else run.evaluation.epoch
    plots = [
        Plot(quantity.title[0].upper() + quantity.title[1:], curve)
        for name, quantity in CURVES.items()
        for curve in [figures.training_curve(metrics, name, quantity, tested)]
    ]
    plots.insert(-1, Plot("Learning rate", figures.learning_rate(metrics)))
    marked = "" if tested is None else f" Dotted: epoch {tested}, the one that was tested."
    return Section(title, f"{tell_count(len(metrics), 'epoch')}.{marked}", plots=plots)


def origin(run: RecordedRun) -> Section:
    """Where the run comes from, and how to make it again."""
    title, manifest = "Origin", run.manifest
    configuration = [Text("Configuration", run.config)] if run.config is not None else []
    if manifest is None:
        lead = "The run did not write down where it comes from."
        return Section(title, lead, texts=configuration)
    said = () if run.evaluation is None else run.evaluation.notes
    train = shlex.join(["python", "train.py", *(run.overrides or ())])
    return Section(
        title,
        tables=[tables.facts(manifest), tables.split(manifest.split)],
        remarks=[warning for warning in manifest.warnings if warning not in said],
        commands=reproduction(manifest.git_commit, str(manifest.facts.get("command", train))),
        texts=[
            *configuration,
            Text(f"Stocks ({len(manifest.tickers)})", ", ".join(manifest.tickers)),
            Text(f"Factors ({len(manifest.factor_names)})", ", ".join(manifest.factor_names)),
            Text(f"Files read ({len(manifest.files)}), SHA-256", hashes(manifest.files)),
        ],
    )


def reproduction(git_commit: str, command: str) -> list[str]:
    """The commands that make the run again."""
    commit = git_commit.removesuffix("+changes")
    if not re.fullmatch("[0-9a-f]+", commit):
        return [f"# the code's commit is not known: {commit}", command]
    lines = [f"git checkout {commit}", command]
    if commit != git_commit:
        lines.insert(0, "# the checkout had changes that are not in this commit")
    return lines


def hashes(files: Mapping[str, str]) -> str:
    return "\n".join(f"{digest}  {name}" for name, digest in files.items())
