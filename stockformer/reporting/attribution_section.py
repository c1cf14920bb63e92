"""The report's section on the inputs that the rank IC rests on."""

from __future__ import annotations

from stockformer.config.quoting import pasteable
from stockformer.evaluation.importance import Importance
from stockformer.evaluation.metrics import METRICS
from stockformer.evaluation.quantities import format_count, format_interval, format_p
from stockformer.reporting import signal_figures
from stockformer.reporting.page import Plot, Section, Text
from stockformer.reporting.signal_section import NO_PREDICTIONS
from stockformer.reporting.tables import Table
from stockformer.runs.console import program
from stockformer.runs.recorded_run import RecordedRun

TITLE, ANCHOR = "What moved it", "attribution"
SHOWN = 20
"""Inputs in the figure; the table has all."""


def section(run: RecordedRun) -> Section:
    """The drop of the rank IC by input; how to compute it if that was not done."""
    if run.predictions is None:
        return Section(TITLE, NO_PREDICTIONS, anchor=ANCHOR)
    if run.importance is None:
        kind = "" if run.manifest is None else run.manifest.facts.get("kind", "run")
        if kind == "ensemble":
            text = "Not computed for several models as one: look at each run."
            return Section(TITLE, text, anchor=ANCHOR)
        command = f"{program('evaluate')} {pasteable('run', run.path)} importance=true"
        text = f"Not computed yet. This does, from the run's checkpoint: {command}"
        return Section(TITLE, text, anchor=ANCHOR)
    found = run.importance
    top = found.table.sort_values("mean", ascending=False, kind="stable").head(SHOWN)
    groups = {name: factors for name, factors in found.factors.items() if len(factors) > 1}
    lines = [f"{name}: {', '.join(factors)}" for name, factors in groups.items()]
    return Section(
        TITLE,
        lead(found),
        plots=[
            Plot(
                "Drop of the rank IC",
                signal_figures.importance(top),
                "Good: several inputs well above zero. An input whose line (95 % interval) crosses "
                "zero may be of no use to the model. "
                "Of inputs that say the same, shuffling one may cost nothing.",
            )
        ],
        details=[table(found)],
        texts=[Text("Factors of each group", "\n".join(lines))] if groups else [],
        anchor=ANCHOR,
    )


def lead(found: Importance) -> str:
    """What was shuffled, and which input matters most."""
    rank_ic = METRICS["rank_ic"]
    text = (
        f"The rank IC of {rank_ic.format(found.rank_ic)} drops by so much if an input is shuffled "
        f"across the stocks of each of {format_count(found.dates, 'test date')} (permutation "
        "importance, paired by date). "
    )
    if any(len(factors) > 1 for factors in found.factors.values()):
        text += "There are many factors, so related ones are shuffled together. "
    best = found.table.sort_values("mean", kind="stable").iloc[-1]
    if best["lower"] > 0:
        return f"{text}Most rests on {best.name}."
    return f"{text}No single input matters significantly."


def table(found: Importance) -> Table:
    """A row a group of inputs, the largest drop first."""
    quantity = METRICS["rank_ic"]
    ordered = found.table.sort_values("mean", ascending=False, kind="stable")
    rows = [
        (
            str(name),
            quantity.format(row["mean"]),
            format_interval(quantity, row["lower"], row["upper"]),
            format_p(row["p"]),
        )
        for name, row in zip(ordered.index, ordered.to_dict("records"))
    ]
    title = "Drop of the rank IC if shuffled"
    return Table(("input", "mean drop", "95 % interval", "p"), rows, title=title)
