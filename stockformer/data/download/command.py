"""`python -m stockformer.data.sources.download`: from the words of its command line to files."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

from stockformer.config.quoting import as_path, pasteable
from stockformer.data.download.downloader import Downloader, Outcome, now_utc
from stockformer.data.download.folder import DownloadFolder, Facts, open_folder
from stockformer.data.download.provider import Provider
from stockformer.data.download.rate_limit import Requests
from stockformer.data.download.universe import Stock, Universe, read_universe
from stockformer.runs.console import program

PROGRAM = "python -m stockformer.data.sources.download"
DATA_DIR = ("STOCKFORMER_DATA", "data")  # paths.data_dir's variable and default
DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
ENDED = timedelta(days=10)  # a stock whose prices end so long before the newest is named
SHOWN = 20  # failures of one reason, and tickers in a line


@dataclass(frozen=True)
class Request:
    """What the command line asks for. words: as given, to print the command that goes on."""

    universe: Universe
    stocks: tuple[Stock, ...]
    start: date
    end: date | None
    into: Path
    words: Mapping[str, str]

    def command(self, tickers: list[str]) -> str:
        """The command line that downloads these of the stocks."""
        words = dict(self.words)
        if tickers != [stock.ticker for stock in self.stocks]:
            words["tickers"] = ",".join(tickers)
        return f"{PROGRAM} {shlex.join(f'{key}={value}' for key, value in words.items())}"


def read_request(words: Mapping[str, str], today: date) -> Request:
    """Raises ValueError naming the word that is missing or invalid."""
    for name in ("universe", "start"):
        if name not in words:
            raise ValueError(
                f"{name}= is missing, e.g. {PROGRAM} universe=nifty200 start=2022-01-01"
            )
    start = _day("start", words["start"])
    end = _day("end", words["end"]) if "end" in words else None
    if end is not None and end < start:
        raise ValueError(f"end={end}: before start={start}")
    for name, day in (("start", start), ("end", end)):
        if day is not None and day > today + timedelta(days=1):
            advice = "; leave it out for the newest session" if name == "end" else ""
            raise ValueError(f"{name}={day}: in the future{advice}")
    universe = read_universe(words["universe"], as_path(words["universe"]))
    stocks = universe.stocks
    if "tickers" in words:
        stocks = universe.only([each.strip() for each in words["tickers"].split(",")])
    into = as_path(words["into"]) if "into" in words else _data_dir() / universe.name
    return Request(universe, stocks, start, end, into, words)


def download(
    words: Mapping[str, str],
    make_provider: Callable[[], Provider],
    clock: Callable[[], datetime] = now_utc,
    make_requests: Callable[[Provider], Requests] = Requests,
) -> Iterator[str]:
    """Download what the words ask for; yields the lines to show.

    Raises ValueError for invalid words, a folder that cannot be used, and at the end if a stock is
    missing: with each reason and the command that tries again. clock, make_requests: for tests.
    """
    request = read_request(words, clock().date())
    provider, universe = make_provider(), request.universe
    new = Facts(provider=provider.name, universe=universe.edition, market=universe.market)
    outcome = Outcome()
    with open_folder(request.into, new, universe.stocks) as folder:
        requests = make_requests(provider)
        downloader = Downloader(folder, requests, request.start, request.end, clock)
        downloader.require_same_range()
        folder.write_sectors(universe.stocks)
        number = f"{len(request.stocks)} of {universe.edition}"
        yield f"{number} into {request.into}, from {provider.name}; Ctrl-C stops, files stay whole"
        yield from downloader.run(request.stocks, outcome)
        yield from _closing(request, folder, outcome)
    if outcome.missing:
        raise ValueError(_failed(request, outcome))


def _closing(request: Request, folder: DownloadFolder, outcome: Outcome) -> Iterator[str]:
    there = folder.facts.stocks
    done = len(request.stocks) - len(outcome.missing)
    yield (
        f"{done} of {len(request.stocks)} stocks: {outcome.new} new, {outcome.continued} "
        f"continued, {outcome.replaced} downloaded again, {outcome.unchanged} unchanged"
    )
    if not there:
        return
    newest = max(facts.last for facts in there.values())
    ended = [f"{t} ({f.last})" for t, f in sorted(there.items()) if f.last < newest - ENDED]
    if ended:
        yield (
            f"prices that end long before {newest}, the newest day: {_some(ended)}; suspended, "
            "delisted, or known by another symbol now?"
        )
    listed = {stock.ticker for stock in request.universe.stocks}
    others = sorted(there.keys() - listed)
    if others:
        yield (
            f"files of stocks that are no longer in {request.universe.edition}: {_some(others)}; "
            f"{folder.raw} is read whole, so remove those that you do not want"
        )
    yield (
        f"survivorship: {request.universe.edition} is one list for all dates; stocks that left "
        "before it was made are missing, so results on past dates are optimistic"
    )
    yield f"check the data: {_check_command(request, folder)}"


def _check_command(request: Request, folder: DownloadFolder) -> str:
    if request.universe.name == request.into.name == "nifty200" and folder.facts.sectors:
        data_dir = request.into.parent
        place = "" if data_dir == _data_dir() else " " + pasteable("paths.data_dir", data_dir)
        return f"{program('validate')} dataset=nifty200{place}"
    path = pasteable("dataset.source.path", folder.raw)
    command = f"{program('validate')} dataset=ohlcv {path}"
    if folder.facts.sectors:
        sectors = pasteable("dataset.source.universe.sectors_path", folder.sectors_file)
        command += f" {sectors} dataset.source.universe.sectors_ticker=symbol"
    return command


def _failed(request: Request, outcome: Outcome) -> str:
    """Every stock that is missing with the reason, and the command that tries these again."""
    lines = [f"{len(outcome.missing)} of {len(request.stocks)} stocks could not be downloaded:"]
    lines += [f"{ticker}: {reason}" for ticker, reason in outcome.failures.items()]
    if outcome.stopped:
        lines.append(f"stopped: {outcome.stopped}; still to do: {_some(outcome.untried)}")
    command = request.command(outcome.missing)
    return "\n  ".join(lines) + f"\ntry only these again: {command}"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _data_dir() -> Path:
    variable, default = DATA_DIR
    return Path(os.environ.get(variable, default))


def _day(name: str, text: str) -> date:
    try:
        if DAY.fullmatch(text):
            return date.fromisoformat(text)
    except ValueError:
        pass
    raise ValueError(f"{name}={text}: not a date as in 2022-01-31")
