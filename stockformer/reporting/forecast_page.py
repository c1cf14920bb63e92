"""The page of a day's forecast: the best and the worst stocks, why, and the trades."""

from __future__ import annotations

import io
import logging
from collections.abc import Collection, Sequence
from pathlib import Path

import pandas as pd

from stockformer.evaluation.day_forecast import DayForecast, without_price
from stockformer.evaluation.quantities import MISSING, format_count
from stockformer.reporting.page import Page, Section
from stockformer.reporting.tables import Table
from stockformer.runs import atomic
from stockformer.runs.recorded_run import read_run

log = logging.getLogger(__name__)

NAMED = 3
"""Inputs that are named as the reason of a forecast."""
SHOWN = 10
"""Stocks at each end of the ranking."""
CSV, PARQUET, TRADES, PAGE = "forecast.csv", "forecast.parquet", "trades.csv", "forecast.html"
OUTPUTS = (
    "Return and probability are two outputs of the model, trained separately: they may disagree, "
    "and only the return ranks."
)
METHOD = (
    "Moved most by, where it is computed: gradient x input, the part of the forecast return in "
    "percentage points that the model's slope at this day's inputs gives to each input, compared "
    "with an input of 0. It describes the model, not the market."
)


def write(folder: Path, day: DayForecast, trades: pd.DataFrame | None, page: Page) -> Path:
    """Write the tables and the page; returns the page's path.

    Raises ValueError if the folder has another forecast: what was said of a day is not replaced.
    """
    csv = table(day).to_csv(index=False, date_format="%Y-%m-%d").encode()
    before = folder / CSV
    if before.exists() and f"\n{day.asof}".encode() not in before.read_bytes():
        raise ValueError(f"{before}: is the forecast of another day; name another folder, into=")
    if before.exists() and before.read_bytes() != csv:
        raise ValueError(
            f"{before}: differs from this forecast: the data of that day, the model or the code "
            "have changed since; nothing was changed. Name another folder with into=FOLDER"
        )
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"into={folder}: a file; name a folder")
    folder.mkdir(parents=True, exist_ok=True)
    parquet = io.BytesIO()
    table(day).to_parquet(parquet, index=False)
    atomic.write(before, csv)
    atomic.write(folder / PARQUET, parquet.getvalue())
    if trades is None:
        earlier = folder / TRADES  # of holdings, which the page has not
        if earlier.exists():
            log.warning("%s: removed, because this call names no holdings= or cash=", earlier)
            earlier.unlink()
    else:
        atomic.write(folder / TRADES, trades.to_csv(index=False).encode())
    return page.write(folder / PAGE)


def table(day: DayForecast) -> pd.DataFrame:
    """A row a stock, those without a forecast last, with the reason."""
    without = pd.DataFrame({"ticker": sorted(day.masked)})
    without["masked"] = [day.masked[ticker] for ticker in without["ticker"]]
    rows = pd.concat([day.stocks.assign(masked=""), without], ignore_index=True)
    dates = {"asof": day.asof, "target_start": day.targets[0][0], "target_end": day.targets[-1][1]}
    for place, (name, date) in enumerate(dates.items()):
        rows.insert(place, name, pd.Timestamp(date))
    return rows.astype({"rank": "Int64", "rank_before": "Int64"})


def page(
    day: DayForecast, trades: pd.DataFrame | None, holdings: Collection[str], command: str
) -> Page:
    """holdings: the tickers held. command: what makes it again."""
    best = ", ".join(day.stocks["ticker"][:NAMED])
    return Page(
        kind="forecast",
        name=str(day.asof),
        headline=f"Forecast at the close of {day.asof}: first of {len(day.stocks)} are {best}.",
        subtitle=subtitle(day),
        state="finished",
        sections=[
            ranking(day),
            *([] if trades is None else [portfolio(day, trades, holdings)]),
            without_forecast(day),
            track_record(day, command),
        ],
    )


def subtitle(day: DayForecast) -> str:
    first, last = day.targets[0][0], day.targets[-1][1]
    known = "known by now" if day.past else "not known yet"
    days = "" if len(day.targets) == 1 else f", the mean of {len(day.targets)} days"
    return f"{day.quantity} from the close of {first} to that of {last}{days}, {known}; {runs(day)}"


def runs(day: DayForecast) -> str:
    if len(day.sources) == 1:
        return f"by {day.sources[0]}"
    return f"the mean of {len(day.sources)} runs"


def ranking(day: DayForecast) -> Section:
    best, worst = day.stocks[:SHOWN], day.stocks[SHOWN:][-SHOWN:]
    return Section(
        title="Ranking",
        lead=f"Ranks are of the {len(day.stocks)} stocks with a forecast. Change: places up "
        f"since the forecast of {day.before}.",
        tables=[stocks(day, best, "Best"), stocks(day, worst, "Worst")],
        remarks=[OUTPUTS, *([METHOD] if day.influence else [])],
        details=[stocks(day, day.stocks, "All", board="forecast")],
    )


def stocks(day: DayForecast, frame: pd.DataFrame, title: str, board: str = "") -> Table:
    header = ["stock", "rank", "change", f"forecast {day.quantity}", f"probability of {day.event}"]
    why = not board and bool(day.influence)
    columns = (frame[name] for name in ("ticker", "rank", "rank_before", "signal", "probability"))
    rows = [
        [
            ticker,
            str(rank),
            change(rank, before),
            f"{signal:+z.3%}",
            f"{probability:.1%}",
            *([reasons(day, ticker)] if why else []),
        ]
        for ticker, rank, before, signal, probability in zip(*columns)
    ]
    header += ["moved most by"] * why
    return Table(header, rows, words=(0, 5), title=title, board=board)


def change(rank: int, before: float) -> str:
    """Places gained since the day before."""
    return MISSING if pd.isna(before) else f"{int(before - rank):+d}"


def reasons(day: DayForecast, ticker: str) -> str:
    found = day.influence.get(ticker, ())[:NAMED]
    return ", ".join(f"{name} {part * 100:+z.3f}" for name, part in found)


def portfolio(day: DayForecast, trades: pd.DataFrame, holdings: Collection[str]) -> Section:
    settings = day.settings
    lead = (
        f"TopK-dropout, rebalanced now: {settings.top_k} stocks are to be held, at most "
        f"{settings.n_drop} of those held are replaced, and {settings.risk_degree:.0%} of the cash "
        f"is spent. Shares are not rounded. Prices are the data set's closes of {day.asof} with "
        "slippage, which are not the market's where they are adjusted for later events; the trade "
        f"is {format_count(settings.delay, 'day')} later."
    )
    if settings.rebalance_days > 1:
        lead += f" The run's backtest rebalances only every {settings.rebalance_days} signal dates."
    if kept := sorted(set(holdings) & set(without_price(day))):
        lead += (
            f" Held without a price on that day, so not to be sold: {', '.join(kept)}; the others "
            "are replaced as if it were not among them."
        )
    if trades.empty:
        return Section("Trades", lead=f"{lead} Nothing is to be traded.")
    columns = (trades[name] for name in ("ticker", "side", "shares", "price", "value", "cost"))
    rows = [
        [ticker, side, f"{shares:,.2f}", f"{price:,.2f}", f"{value:,.0f}", f"{cost:,.2f}"]
        for ticker, side, shares, price, value, cost in zip(*columns)
    ]
    header = ("stock", "side", "shares", "price", "value", "cost")
    return Section("Trades", lead=lead, tables=[Table(header, rows, words=(0, 1))])


def without_forecast(day: DayForecast) -> Section:
    if not day.masked:
        return Section("Without a forecast", lead="Every stock of the model has one.")
    rows = [[ticker, why] for ticker, why in sorted(day.masked.items())]
    return Section("Without a forecast", tables=[Table(("stock", "why"), rows, words=(0, 1))])


def track_record(day: DayForecast, command: str) -> Section:
    return Section(
        title="What this model has shown",
        remarks=[*verdicts(day.sources), *day.notes],
        commands=[command],
    )


def verdicts(sources: Sequence[Path]) -> list[str]:
    """The conclusion of each run's test, the first few."""
    found = [f"{path}: {read_run(path, large_files=False).headline}" for path in sources[:NAMED]]
    more = len(sources) - len(found)
    return found + [f"and {format_count(more, 'more run')}"] * bool(more)
