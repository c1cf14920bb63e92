"""Audits a run for look-ahead: `python -m stockformer.audit.lookahead ...`

Takes train.py's overrides. For each cut date the run is prepared again, in a separate process, with
another future: everything after the cut replaced by noise with 30 % missing, dropped, or replaced
with missing cells unchanged. All results for the cut date or earlier must be bit-identical:
factors, windows, calendar, states of processors, the target's scale, the graph embedding,
predictions in the evaluator's own batches, validity of targets, baselines, the weights and metrics
of a small training. Conversely, the target of the cut date must change, or it was already known.
Other checks: the source's files truncated at a date, undeclared files, purge and order of the
split, the batches of the loaders, the backtest's dates and prices, evaluation elsewhere, ensembles.
Cuts are after the training days, whose data processors and graph may use. Factors prepared outside
cannot be recomputed; they are screened (`evaluation.screening`).
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from stockformer.audit import variants
from stockformer.audit.observe import Observation, Request, observe, source_observation
from stockformer.audit.results import positions
from stockformer.commands.command import command, log_config
from stockformer.config.recorded import recorded
from stockformer.data.dataset import Dataset, days_at_once, training_days
from stockformer.evaluation.screening import likely_leaks
from stockformer.experiment import Experiment, read_dataset
from stockformer.runs import audited
from stockformer.runs.description import manifest
from stockformer.training.progress import progress, working

log = logging.getLogger("stockformer.audit.lookahead")  # not __main__, with python -m

CUTS = 20
NAMED = 3  # cells named in each finding
START_METHOD = "forkserver"
AT_ONCE = 2  # processes
MUST_MOVE = ("target known already", "scored label known already")


@dataclass(frozen=True)
class Leak:
    """A result that changed with the future; cells: (date, ticker, before, after) of the first."""

    what: str
    cut: str = ""
    how: str = ""
    changed: int = 0
    cells: tuple[tuple[str, str, float, float], ...] = ()

    def and_later(self, other: Leak) -> Leak:
        """This leak, with what was found of it on later days."""
        cells = (*self.cells, *other.cells)[:NAMED]
        return replace(self, changed=self.changed + other.changed, cells=cells)

    def __str__(self) -> str:
        if not self.how:
            return self.what
        where = "; ".join(
            f"{date} {ticker}".strip() + f" {before:.6g} -> {after:.6g}"
            for date, ticker, before, after in self.cells
        )
        return (
            f"{self.what}: {self.changed} values up to {self.cut} changed when later days were "
            f"{self.how}: {where}"
        )


@dataclass(frozen=True)
class Audit:
    """Leaks found and what could not be checked. cuts: the rows; seen: the observation of the
    complete data."""

    leaks: list[Leak]
    not_checkable: list[str]
    cuts: np.ndarray
    seen: Observation


def run_audit(
    config: DictConfig,
    data: Dataset,
    overrides: Sequence[str] = (),
    cuts: int = CUTS,
    fast: bool = False,
) -> Audit:
    """Every leak found, one for each result and variant, at the first cut that shows it.

    data: what the configuration prepares; the days to cut after are those of its split, which the
    variants are given too. overrides: of the command line, as a run records them. fast: each
    variant of the future once and no small training, for `validate.py`. A single cut is before the
    test, so the baselines are not compared. Raises ValueError if the run cannot be prepared, or a
    factor is constant or empty.
    """
    text = recorded(config)
    cache = Path(config.paths.cache_dir)
    with ExitStack() as stack:
        scratch = ""
        if START_METHOD:
            place = cache if cache.is_dir() else None
            folder = tempfile.TemporaryDirectory(dir=place, prefix="audit-")
            scratch = stack.enter_context(folder)
        rows = cut_rows(data, cuts)
        middle = int(rows[len(rows) // 2])
        first = Request(
            text, variants.WHOLE, 0, tuple(map(int, rows)), tuple(overrides), scratch=scratch
        )
        of_whole = replace(first, train=not fast, baselines=cuts > 1)
        last_validated = int(data.split.validation[-1]) + data.targets.span
        wanted = _requests(replace(first, split=data.split), middle, last_validated, fast)
        found: dict[tuple[str, str], Leak] = {}
        # Not in parallel within this process: they share torch's random generator.
        pool = ThreadPoolExecutor(AT_ONCE if START_METHOD else 1)
        stack.callback(pool.shutdown, cancel_futures=True)  # of what is left after an error
        future_whole = pool.submit(stack.enter_context, observe(of_whole, START_METHOD))
        future_source = pool.submit(source_observation, text, middle, START_METHOD)
        compared = pool.map(partial(_leaks, future_whole), wanted)
        with working("preparing the look-ahead audit"):
            whole = future_whole.result()
        if whole.constant:  # it would pass any audit
            raise ValueError(
                f"look-ahead audit: {', '.join(whole.constant)} constant or empty, so they cannot "
                "be checked; remove them"
            )
        for leaks in progress(compared, "look-ahead audit", total=len(wanted)):
            for leak in leaks:
                found.setdefault((leak.what, leak.how), leak)
        for sentence in (*whole.faults, *whole.undeclared, *future_source.result()):
            found.setdefault((sentence, ""), Leak(sentence))
    screened, not_checkable = _screened(config, whole)
    return Audit([*found.values(), *screened], not_checkable, rows, whole)


def cut_rows(data: Dataset, count: int) -> np.ndarray:
    """Rows to cut after: from the last training day to the last signal day, evenly."""
    first = training_days(data.split, data.targets).stop - 1
    last = int(data.split.test[-1])
    return np.unique(np.linspace(first, last, count).round().astype(int))


def _requests(first: Request, middle: int, last: int, fast: bool) -> list[Request]:
    """The variants of the future that are compared with the complete data.

    first: its rows are those to cut after. middle: the row that rarer variants are cut after;
    last: the last one that the validation uses.
    """
    ways = (variants.REPLACED,) if fast else (variants.REPLACED, variants.DROPPED)
    wanted = [
        replace(
            first,
            variant=way,
            cut=cut,
            rows=(cut,),
            baselines=way == variants.REPLACED and len(first.rows) > 1,
        )
        for cut in first.rows
        for way in ways
    ]
    for way in (variants.REVALUED, *((variants.DROPPED,) if fast else ())):
        wanted.append(replace(first, variant=way, cut=middle, rows=(middle,)))
    if not fast:  # the small training does not use test data
        of_training = replace(first, variant=variants.REPLACED, cut=last, rows=(last,), train=True)
        wanted.append(of_training)
    return wanted


def _leaks(whole: Future[Observation], request: Request) -> list[Leak]:
    with observe(request, START_METHOD) as other:
        undeclared = map(Leak, other.undeclared)  # it may have been the one that read the data
        return [*undeclared, *_moved(whole.result(), other, request)]


def _moved(whole: Observation, other: Observation, request: Request) -> Iterator[Leak]:
    """Results for rows up to the cut that differ, and results that should differ but do not."""
    cut, how = request.cut, request.variant
    if whole.factor_names != other.factor_names:
        yield Leak("factor selection", str(whole.dates[cut]), how, 1)
        return
    for name in (each for each in whole.dated if each in other.dated):
        # Missing days of the replaced future may change which targets are known.
        if name.startswith(("validity", "target's")) and how != variants.REVALUED:
            continue
        if name in MUST_MOVE:
            yield from _known_already(whole, other, name, request)
        else:
            yield from _changed(whole, other, name, request)
    for name, values in whole.static.items():
        if not np.array_equal(values, other.static.get(name, np.empty(0)), equal_nan=True):
            yield _leak(whole, name, cut, how, values, other.static.get(name, np.empty(0)))
    if request.train:
        for name, values in whole.trained.items():
            if not np.array_equal(values, other.trained.get(name, np.empty(0)), equal_nan=True):
                yield Leak(
                    f"training: {name} of a small training", str(whole.dates[cut]), how, values.size
                )


def _changed(whole: Observation, other: Observation, name: str, request: Request) -> Iterator[Leak]:
    """A leak for each column of a result that differs on a day up to the cut, or for the result.

    The values are looked at only where the digests differ, by blocks of days.
    """
    mine, yours = whole.dated[name], other.dated[name]
    common = np.intersect1d(mine.rows, yours.rows)
    rows = common[common <= request.cut]
    same = mine.digests[positions(mine.rows, rows)] == yours.digests[positions(yours.rows, rows)]
    rows = rows[~same]
    if not len(rows):
        return
    size = days_at_once(_values(whole, name, rows[:1]).size)
    found: dict[str, Leak] = {}
    for block in np.split(rows, range(size, len(rows), size)):
        before, after = (_values(each, name, block) for each in (whole, other))
        for i, column in enumerate(mine.columns or (name,)):
            a, b = (before[..., i], after[..., i]) if mine.columns else (before, after)
            if not np.array_equal(a, b, equal_nan=a.dtype.kind == "f"):
                leak = _leak(whole, column, request.cut, request.variant, a, b, block)
                found[column] = found[column].and_later(leak) if column in found else leak
    yield from found.values()


def _values(seen: Observation, name: str, rows: np.ndarray) -> np.ndarray:
    assert seen.values is not None
    return seen.values(name, rows)


def _known_already(
    whole: Observation, other: Observation, name: str, request: Request
) -> Iterator[Leak]:
    """A target of the cut date that does not change with later noise was known at the close."""
    day = np.array([request.cut])
    if request.variant == variants.DROPPED or not all(
        np.isin(day, seen.dated[name].rows).all() for seen in (whole, other)
    ):
        return
    one, two = (_values(seen, name, day) for seen in (whole, other))
    same = (one == two) & (one != 0)
    if same.any():
        values = np.where(same, one, 0.0)
        zero = np.zeros_like(values)
        yield _leak(whole, name, request.cut, request.variant, values, zero, day)


def _leak(
    whole: Observation,
    what: str,
    cut: int,
    how: str,
    before: np.ndarray,
    after: np.ndarray,
    rows: np.ndarray | None = None,
) -> Leak:
    """A leak with the first cells that differ; with `rows`, the first axis is dates."""
    date = str(whole.dates[cut])
    if before.shape != after.shape:
        return Leak(what, date, how, before.size)
    unknown = np.isnan(before.astype(float)) & np.isnan(after.astype(float))
    different = np.argwhere(~((before == after) | unknown))
    cells = []
    for index in map(tuple, different[:NAMED]):
        day = str(whole.dates[rows[index[0]]]) if rows is not None else ""
        axis = len(before.shape) - 1 if rows is not None else 0
        stocks = before.shape[axis] == len(whole.tickers) and axis < len(index)
        ticker = str(whole.tickers[index[axis]]) if stocks else ""
        cells.append((day, ticker, float(before[index]), float(after[index])))
    return Leak(what, date, how, len(different), tuple(cells))


def _screened(config: DictConfig, seen: Observation) -> tuple[list[Leak], list[str]]:
    """Leaks of prepared factors, by screening, and notes on what cannot be recomputed."""
    outside = []
    if config.graph["_target_"].endswith("FileGraph"):
        outside.append("the graph embedding: prepared outside, from a file")
    if not seen.prepared:
        return [], outside
    outside.insert(
        0, f"{len(seen.factor_names)} prepared factors: prepared outside; screened instead"
    )
    assert seen.screened is not None
    leaks = likely_leaks(seen.screened)
    waived = set(config.dataset.waived_factors)
    outside += [
        f"factor {leak.name}: waived, {leak.reason}" for leak in leaks if leak.name in waived
    ]
    return [
        Leak(
            f"factor {leak.name} is a likely leak: {leak.reason}; if you know that it is not, "
            f"dataset.waived_factors=[{leak.name}]"
        )
        for leak in leaks
        if leak.name not in waived
    ], outside


def audit(config: DictConfig, folder: Path, overrides: Sequence[str]) -> None:
    """Raises ValueError that names every leak."""
    log_config(config)
    started = time.perf_counter()
    data = read_dataset(config)
    found = run_audit(config, data, overrides)
    audited.record(config, manifest(Experiment(config, data)), len(found.leaks), len(found.cuts))
    for line in found.not_checkable:
        log.warning("not checkable: %s", line)
    if found.leaks:
        raise ValueError("look-ahead:\n" + "\n".join(map(str, found.leaks)))
    seen = found.seen
    checked = "inputs" if seen.prepared else f"{len(seen.factor_names)} factors, inputs"
    log.info(
        "no look-ahead: %s, targets, states, graph, predictions, baselines, a small training and "
        "the backtest did not change with the days after %d cut dates, %s to %s (%.0f s)",
        checked,
        len(found.cuts),
        *seen.dates[found.cuts[[0, -1]]],
        time.perf_counter() - started,
    )


main = command(audit, run_folder=False)

if __name__ == "__main__":
    main()
