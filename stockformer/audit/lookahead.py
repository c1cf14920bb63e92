"""Does anything a model is given know the future? `python -m stockformer.audit.lookahead ...`

Takes train.py's overrides. For each cut date, everything after it is replaced by garbage with 30 %
missing, and, separately, dropped; all is rebuilt up to the batch and the model's predictions. What
belongs to the cut date or an earlier one must not move by a bit: factors, windows, calendar, the
states of processors, the target's unit, the graph embedding, predictions. The other way about, the
target of the cut date must move: one that does not is known already. Cuts lie after the training
days, whose data processors and graph may see. The source's own panel is taken at its word: what a
file holds was made elsewhere.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig

from stockformer.build import build
from stockformer.cli import announce, command
from stockformer.data.panel import Panel
from stockformer.dataset import Data, training_days
from stockformer.experiment import Experiment

log = logging.getLogger("stockformer.audit.lookahead")  # not __main__, with python -m

CUTS = 20
MISSING = 0.3
LAST_DAYS = 3  # signal days up to the cut whose windows and predictions are compared
NAMED = 3  # cells named of each finding


@dataclass(frozen=True)
class Leak:
    """Something that moved with the future; cells: (date, ticker, before, after) of the first."""

    what: str
    cut: str
    how: str
    changed: int
    cells: tuple[tuple[str, str, float, float], ...]

    def __str__(self) -> str:
        where = "; ".join(
            f"{date} {ticker}".strip() + f" {before:.6g} -> {after:.6g}"
            for date, ticker, before, after in self.cells
        )
        return (
            f"{self.what}: {self.changed} values up to {self.cut} changed when later days were "
            f"{self.how}: {where}"
        )


class Audit:
    """The perturbation audit of one configuration."""

    def __init__(self, config: DictConfig) -> None:
        self.config = config
        # The source's panel, not the cached one: factors must be computed anew from garbage.
        self.panel: Panel = build(config.dataset.source)
        self.data = Data.prepare(config, self.panel)
        self.experiment = Experiment(config, self.data)

    def cuts(self, count: int) -> np.ndarray:
        """Rows to cut after: from the last training day to the last signal day, evenly."""
        first = training_days(self.data.split, self.data.targets).stop - 1
        last = len(self.panel.dates) - 1 - self.data.targets.span
        return np.unique(np.linspace(first, last, count).round().astype(int))

    def run(self, cuts: np.ndarray) -> list[Leak]:
        """Every leak found after these rows, one per thing and way, the first cut that shows it.

        Raises ValueError where a factor is constant or empty: nothing can be said of it.
        """
        self.require_movement()
        found: dict[tuple[str, str], Leak] = {}
        for cut in map(int, cuts):
            garbled = self.rebuild(garble(self.panel, cut, np.random.default_rng(cut)))
            dropped = self.rebuild(drop(self.panel, cut))
            leaks = [
                *self.moved(garbled, cut, "replaced", cut),
                *self.moved(dropped, cut, "dropped", cut - self.data.targets.span),
                *self.known_targets(garbled, cut),
            ]
            for leak in leaks:
                found.setdefault((leak.what, leak.how), leak)
        return list(found.values())

    def rebuild(self, panel: Panel) -> Experiment:
        return Experiment(self.config, Data.prepare(self.config, panel, self.data.split))

    def require_movement(self) -> None:
        """A factor that never moves would pass any audit."""
        factors = self.data.panel.factors[self.cuts(2)[0] - 1 :]
        still = factors.max(axis=(0, 1)) == factors.min(axis=(0, 1))
        if still.any():
            names = [name for name, s in zip(self.data.panel.factor_names, still) if s]
            raise ValueError(
                f"look-ahead audit: {', '.join(names)} constant or empty: nothing can be said of "
                "them; leave them out"
            )

    def moved(self, other: Experiment, cut: int, how: str, predicted: int) -> Iterator[Leak]:
        """What belongs to rows up to `cut` and differs; predictions up to row `predicted`."""
        mine, theirs = self.data, other.data
        upto = slice(0, cut + 1)
        if mine.panel.factor_names != theirs.panel.factor_names:
            yield self.leak("factor selection", cut, how, np.ones(1), np.zeros(1))
            return
        for i, name in enumerate(mine.panel.factor_names):
            before, after = (d.panel.factors[upto, :, i] for d in (mine, theirs))
            yield from self.compare(f"factor {name}", cut, how, before, after)
        days = np.arange(predicted - LAST_DAYS + 1, predicted + 1)
        batches = [d.windows.part(days)[list(range(len(days)))] for d in (mine, theirs)]
        for name in ("returns", "trend", "factors", "calendar"):
            before, after = (getattr(batch, name).numpy() for batch in batches)
            if name == "calendar":  # the target days' calendar is known beforehand
                before, after = (
                    before[:, : -len(mine.targets.end)],
                    after[:, : -len(mine.targets.end)],
                )
            yield from self.compare(f"window's {name}", cut, how, before, after, days)
        before, after = (d.windows.calendar[upto].numpy() for d in (mine, theirs))
        yield from self.compare("calendar", cut, how, before, after)
        for name, state in mine.states.items():
            for key, values in state.items():
                yield from self.compare(
                    f"state of processor {name} ({key})", cut, how, values, theirs.states[name][key]
                )
        before, after = (np.array([d.targets.unit]) for d in (mine, theirs))
        yield from self.compare("unit of the target", cut, how, before, after)
        before, after = (e.embedding.values for e in (self.experiment, other))
        yield from self.compare("graph embedding", cut, how, before, after)
        before, after = (predictions(e, days) for e in (self.experiment, other))
        yield from self.compare("prediction", cut, how, before, after, days)

    def known_targets(self, other: Experiment, cut: int) -> Iterator[Leak]:
        """A target of the cut date that garbage after it leaves alone is known at its close."""
        before, after = (d.targets for d in (self.data, other.data))
        both = before.valid[cut] & after.valid[cut]
        same = both & (before.returns[cut] == after.returns[cut]) & (before.returns[cut] != 0)
        if same.any():
            values = np.where(same, before.returns[cut], 0.0)
            yield self.leak("target known already", cut, "replaced", values[0], np.zeros(1))

    def compare(
        self,
        what: str,
        cut: int,
        how: str,
        before: np.ndarray,
        after: np.ndarray,
        rows: np.ndarray | None = None,
    ) -> Iterator[Leak]:
        if before.shape != after.shape or not np.array_equal(before, after, equal_nan=True):
            yield self.leak(what, cut, how, before, after, rows)

    def leak(
        self,
        what: str,
        cut: int,
        how: str,
        before: np.ndarray,
        after: np.ndarray,
        rows: np.ndarray | None = None,
    ) -> Leak:
        """Name the first cells that differ; the first axis is dates if it is as long as `rows`."""
        if before.shape != after.shape:
            return Leak(what, str(self.panel.dates[cut]), how, before.size, ())
        different = np.argwhere(~((before == after) | (np.isnan(before) & np.isnan(after))))
        dated = rows is not None or before.shape[0] == cut + 1
        days = np.arange(cut + 1) if rows is None else rows
        cells = []
        for index in map(tuple, different[:NAMED]):
            date = str(self.panel.dates[days[index[0]]]) if dated else ""
            stock = index[1] if dated and len(index) > 1 else index[0]
            by_stock = (
                before.shape[1:2] if dated else before.shape[:1]
            ) == self.panel.tickers.shape
            ticker = str(self.panel.tickers[stock]) if by_stock else ""
            cells.append((date, ticker, float(before[index]), float(after[index])))
        return Leak(what, str(self.panel.dates[cut]), how, len(different), tuple(cells))


@torch.inference_mode()
def predictions(experiment: Experiment, days: np.ndarray) -> np.ndarray:
    """(days, N): first step's forecast of the untrained model, the same for every rebuild."""
    experiment.model.eval()
    batch = experiment.data.windows.part(days)[list(range(len(days)))]
    forecast = experiment.model(batch.to(experiment.device))
    values: np.ndarray = forecast.returns[:, 0].cpu().numpy()
    return values


def garble(panel: Panel, cut: int, random: np.random.Generator) -> Panel:
    """Everything after row `cut` is noise, 30 % of it missing; dates and tickers stay."""
    after = np.arange(len(panel.dates)) > cut

    def noisy(array: np.ndarray, noise: np.ndarray) -> np.ndarray:
        noise = np.where(random.random(array.shape) < MISSING, np.nan, noise)
        late = after.reshape(-1, *[1] * (array.ndim - 1))
        return np.where(late, noise, array).astype(array.dtype)

    member = panel.member
    if member is not None:
        shuffled = random.random(member.shape) < 1 - MISSING
        member = np.where(after[:, None], shuffled, member)
    return replace(
        panel,
        returns=noisy(panel.returns, random.normal(0, 0.1, panel.returns.shape)),
        factors=noisy(panel.factors, random.normal(0, 10, panel.factors.shape)),
        prices={
            name: noisy(array, np.exp(random.normal(5, 2, array.shape)))
            for name, array in panel.prices.items()
        },
        member=member,
    )


def drop(panel: Panel, cut: int) -> Panel:
    """The panel as it was at the close of row `cut`."""
    upto = slice(0, cut + 1)
    dated = {
        f.name: getattr(panel, f.name)[upto]
        for f in fields(panel)
        if f.name in ("dates", "returns", "factors", "oracle", "member")
        and getattr(panel, f.name) is not None
    }
    prices = {name: array[upto] for name, array in panel.prices.items()}
    return replace(panel, prices=prices, breaks=tuple(b for b in panel.breaks if b <= cut), **dated)


def audit(config: DictConfig, folder: Path, overrides: list[str]) -> None:
    """Raises ValueError that names every leak."""
    announce(config)
    subject = Audit(config)
    cuts = subject.cuts(CUTS)
    leaks = subject.run(cuts)
    if leaks:
        raise ValueError("look-ahead:\n" + "\n".join(map(str, leaks)))
    log.info(
        "no look-ahead: %d factors, windows, states, graph and predictions did not move with what "
        "came after %d cut dates, %s to %s",
        len(subject.data.panel.factor_names),
        len(cuts),
        *subject.panel.dates[cuts[[0, -1]]],
    )


main = command(audit, run_folder=False)

if __name__ == "__main__":
    main()
