"""The forecast of a day: what the backtest saw, days without a target, stocks that come and go."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from small_data import PriceFiles, composed
from torch import nn

from stockformer.commands.plain_command import parse
from stockformer.commands.predict import predict
from stockformer.data.calendar import with_following_days
from stockformer.evaluation.averaging import mean_forecast, run_weights
from stockformer.evaluation.day_forecast import DayForecast, trades
from stockformer.evaluation.neutralise import Neutraliser
from stockformer.experiment import Experiment, read_dataset
from stockformer.interface import Batch, Forecast
from stockformer.runs.folder import RunDir
from stockformer.runs.forecasting import Member, forecast
from stockformer.runs.reopen import reopen
from stockformer.training.attribution import attribute

TICKERS = [f"S{i:02d}" for i in range(12)]
WORDS = (
    *("dataset=ohlcv", "dataset.lookback=5", "dataset.factors=[KMID,ROC5,STD5,VMA5]"),
    *("model=stockformer_small", "model.width=8", "trainer.max_epoch=1", "trainer.device=cpu"),
    *("trainer.batch_size=2", "backtest.top_k=3", "backtest.n_drop=1", "report=false"),
)


class Trained:
    """A run on price files, and files that may be changed."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.files = PriceFiles(folder / "data", TICKERS)
        config = composed(*WORDS, *words, data_dir=self.files.data_dir)
        self.run = folder / "run"
        experiment = Experiment(config, read_dataset(config))
        with RunDir.claim(self.run) as run:
            experiment.train(run, [*WORDS, *words, f"paths.data_dir={self.files.data_dir}"])
        self.predictions = pd.read_parquet(self.run / "predictions.parquet")

    def copy(self, folder: Path) -> Trained:
        copied = object.__new__(Trained)
        copied.files = PriceFiles(folder / "data", TICKERS)
        copied.run = folder / "run"
        shutil.copytree(self.run, copied.run)
        copied.predictions = self.predictions
        return copied

    def forecast(self, asof: str | None = None, explained: int = 1) -> DayForecast:
        data = self.files.data_dir
        words = [f"paths.data_dir={data}", f"paths.cache_dir={data}/cache"]
        return forecast([self.run], asof, words, explained)

    def append_a_day(self, *but: str) -> None:
        """One more business day for all stocks, unchanged, but for some."""
        for ticker, frame in self.files.frames.items():
            row = frame.iloc[-1].copy()
            row["Date"] = str(pd.Timestamp(row["Date"]) + pd.offsets.BDay())[:10]
            if ticker not in but:
                row["Close"] = round(row["Close"] * 1.001, 4)
                self.files.frames[ticker] = pd.concat([frame, row.to_frame().T])
        self.files.write()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(tmp_path_factory.mktemp("forecasting"))


@pytest.fixture
def trained(original: Trained, tmp_path: Path) -> Trained:
    return original.copy(tmp_path)


def require_as_evaluated(trained: Trained) -> None:
    for date, rows in trained.predictions.groupby("signal_date"):
        stocks = trained.forecast(str(date)[:10]).stocks.set_index("ticker")
        seen = rows.set_index("ticker").loc[stocks.index]
        assert len(stocks) == len(TICKERS)
        assert np.array_equal(stocks["prediction_1"], seen["prediction"])
        assert np.array_equal(stocks["probability_1"], seen["probability"])


def test_a_test_days_forecast_is_that_of_the_evaluation_to_the_bit(original: Trained) -> None:
    assert original.predictions["signal_date"].nunique() > 4  # more than one batch
    require_as_evaluated(original)


def test_neutralised_forecasts_are_those_of_the_evaluation_too(tmp_path: Path) -> None:
    words = ("neutralise=components", "neutralise.components=2", "neutralise.days=20")
    trained = Trained(tmp_path, *words)
    require_as_evaluated(trained)
    notes = trained.forecast().notes
    assert any("without exposure to 2 principal components" in note for note in notes)
    assert any("before it was neutralised" in note for note in notes)
    data = read_dataset(composed(*WORDS, data_dir=trained.files.data_dir))
    exposures = Neutraliser(data.panel.returns, data.panel.member, 2, True, 20)
    for date, rows in trained.predictions.groupby("signal_date"):
        (row,) = np.flatnonzero(data.panel.dates == np.datetime64(date, "D"))
        made = rows.set_index("ticker")["prediction"][data.panel.tickers]
        left = (made - made.mean()) @ exposures.exposures(int(row))
        assert np.abs(left).max() < 1e-6 * made.std()


@pytest.mark.full
@pytest.mark.parametrize("processors", ["rank", "robust", "none"])
def test_whatever_the_processors(tmp_path: Path, processors: str) -> None:
    require_as_evaluated(Trained(tmp_path, f"processors={processors}"))


def test_the_trades_are_the_backtests(original: Trained) -> None:
    run = RunDir(original.run)
    ledger, positions, equity = (
        pd.read_csv(file) for file in (run.trades_file, run.positions_file, run.equity_file)
    )
    days = sorted(str(date)[:10] for date in original.predictions["signal_date"].unique())
    for signal, traded in pairwise(days):
        day = original.forecast(signal)
        before = equity[equity["date"] <= signal]
        cash = before["cash"].iloc[-1] if len(before) else day.settings.capital
        held = positions[positions["date"] == signal].set_index("ticker")["shares"]
        ours = trades(day, held.to_dict(), cash)
        theirs = ledger[ledger["date"] == traded]
        assert sorted(zip(ours["side"], ours["ticker"])) == sorted(
            zip(theirs["side"], theirs["ticker"])
        )


def test_the_newest_day_has_no_target_and_stays_as_it_was(trained: Trained) -> None:
    """Also when the day after it is known."""
    newest = trained.forecast()
    assert str(newest.asof) == trained.files.frames["S00"]["Date"].iloc[-1]
    assert not newest.past
    ((start, end),) = newest.targets
    assert start == newest.asof
    assert end == np.busday_offset(newest.asof, 1)
    assert sorted(newest.stocks["rank"]) == list(range(1, len(TICKERS) + 1))
    trained.append_a_day()
    again = trained.forecast(str(newest.asof))
    assert again.past
    pd.testing.assert_frame_equal(again.stocks, newest.stocks, check_exact=True)
    after = trained.forecast()
    assert after.before == newest.asof
    ranks = after.stocks.set_index("ticker")["rank_before"]
    assert ranks.to_dict() == newest.stocks.set_index("ticker")["rank"].to_dict()


def test_new_suspended_and_delisted_stocks_are_masked_and_listed(trained: Trained) -> None:
    before = set(trained.forecast().stocks["ticker"])
    files = trained.files
    trained.append_a_day("S03")
    files.path("S07").unlink()
    del files.frames["S07"]
    prices = ["Open", "High", "Low", "Close"]
    files.frames["NEW"] = files.frames["S01"].copy()
    files.frames["NEW"][prices] *= 1 + 0.001 * np.arange(len(files.frames["NEW"]))[:, None]
    files.write()
    day = trained.forecast()
    assert set(day.stocks["ticker"]) == before - {"S03", "S07"}
    last = files.frames["S03"]["Date"].iloc[-1]
    assert day.masked == {
        "S03": f"not traded: suspended or delisted? last on {last}",
        "S07": "not in the data: delisted or renamed?",
        "NEW": "new: the model was not trained on it",
    }


def test_other_data_are_refused(trained: Trained) -> None:
    for ticker in TICKERS[:3]:
        trained.files.path(ticker).unlink()
    with pytest.raises(ValueError, match="of which the data lack 3: S00, S01, S02"):
        trained.forecast()


@pytest.mark.parametrize(
    ("asof", "message"),
    [
        ("yesterday", "asof=yesterday: not a date, such as 2023-04-21"),
        ("2023-04-22", "asof=2023-04-22: not a day of the data, which end on 2023-04-21"),
        ("2023-01-20", "asof=2023-01-20: the model was fitted and selected on days before"),
    ],
)
def test_a_date_that_cannot_be_forecast(original: Trained, asof: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        original.forecast(asof)


def test_a_test_day_whose_data_have_changed_is_refused(trained: Trained) -> None:
    date = str(trained.predictions["signal_date"].max())[:10]
    frame = trained.files.frames["S02"]
    frame.loc[frame["Date"] == date, "Close"] *= 1.005
    trained.files.write()
    with pytest.raises(ValueError, match=f"another forecast of {date}"):
        trained.forecast(date)


def test_the_mean_of_runs(original: Trained, tmp_path: Path) -> None:
    other = Trained(tmp_path, "seed=7")
    one, two = original.forecast(), other.forecast()
    data = f"paths.data_dir={other.files.data_dir}"
    both = forecast([original.run, other.run], None, [data], explained=0)
    assert both.influence == {}
    order = sorted(TICKERS)
    for name in ("signal", "probability"):
        mean = sum(each.stocks.set_index("ticker")[name][order] for each in (one, two)) / 2
        np.testing.assert_allclose(both.stocks.set_index("ticker")[name][order], mean, rtol=1e-12)


def test_the_mean_of_two_configurations_is_attributed_by_their_weights(
    original: Trained, tmp_path: Path
) -> None:
    other = Trained(tmp_path, "seed=7", "trainer.max_epoch=2")
    each = [run.forecast(explained=len(TICKERS)) for run in (original, other)]
    forecasts = [day.stocks.set_index("ticker")["prediction_1"][sorted(TICKERS)] for day in each]
    weights = run_weights(np.stack(forecasts)[:, None], ["a", "b"]).ravel()
    assert abs(weights[0] - weights[1]) > 1e-3
    data = f"paths.data_dir={other.files.data_dir}"
    both = forecast([original.run, other.run], None, [data], explained=1)
    order = mean_forecast(np.stack(forecasts)[:, None], ["a", "b"])[0]
    np.testing.assert_allclose(
        both.stocks.set_index("ticker")["signal"][sorted(TICKERS)], order, rtol=1e-6, atol=1e-12
    )
    assert len(both.influence) == 2
    for ticker, parts in both.influence.items():
        one, two = (dict(day.influence[ticker]) for day in each)
        for name, value in parts:
            expected = weights[0] * one[name] + weights[1] * two[name]
            assert value == pytest.approx(expected, rel=1e-5, abs=1e-12)


def test_runs_that_have_no_common_mean(original: Trained, tmp_path: Path) -> None:
    other = Trained(tmp_path, "target.excess=true")
    data = f"paths.data_dir={other.files.data_dir}"
    with pytest.raises(ValueError, match="another target than"):
        forecast([original.run, other.run], None, [data])
    with pytest.raises(ValueError, match="named twice"):
        forecast([original.run, original.run], None, [data])


def test_trades_at_the_close_are_those_of_the_ledger(tmp_path: Path) -> None:
    """Where the backtest trades at once, its prices, shares and costs are known here too."""
    trained = Trained(tmp_path, "backtest.delay=0", "backtest.fill=close")
    run = RunDir(trained.run)
    ledger, positions, equity = (
        pd.read_csv(file) for file in (run.trades_file, run.positions_file, run.equity_file)
    )
    days = sorted(equity["date"])
    for before, signal in pairwise(days[:-1]):
        held = positions[positions["date"] == before].set_index("ticker")["shares"]
        cash = equity.set_index("date")["cash"][before]
        ours = trades(trained.forecast(signal), held.to_dict(), cash).set_index("ticker")
        theirs = ledger[ledger["date"] == signal].set_index("ticker").loc[ours.index]
        for name in ("shares", "price", "value", "cost"):
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-9)


def test_a_day_that_is_not_over_is_refused(trained: Trained) -> None:
    trained.append_a_day(*TICKERS[2:])
    with pytest.raises(ValueError, match="2 stocks have a price, on the day before 12"):
        trained.forecast()


def test_data_without_prices_have_no_trades(original: Trained) -> None:
    day = replace(original.forecast(), has_prices=False)
    with pytest.raises(ValueError, match="returns only, no prices"):
        trades(day, {}, 1000)


class OfFactors(nn.Module):
    """A model that does not read past returns."""

    def forward(self, batch: Batch) -> Forecast:
        returns = batch.factors[:, -1].sum(dim=-1)
        return Forecast(returns[:, None], torch.zeros(*returns[:, None].shape, 2))


class Linear(nn.Module):
    """The return is a weighted sum of the stock's own last factors and of the mean past return."""

    weights = torch.tensor([2.0, -1.0, 0.5])

    def forward(self, batch: Batch) -> Forecast:
        own = batch.factors[:, -1] @ self.weights
        returns = own + batch.returns.mean(dim=(1, 2))[:, None]
        return Forecast(returns[:, None], torch.zeros(*returns[:, None].shape, 2))


def test_a_linear_model_is_attributed_exactly() -> None:
    random = torch.Generator().manual_seed(1)
    factors = torch.randn(1, 4, 5, 3, generator=random)
    returns = torch.randn(1, 4, 5, generator=random)
    nothing = torch.zeros(1, 1, 5)
    batch = Batch(returns, returns, factors, *[nothing] * 4, torch.tensor([3]), returns > 0)
    found = attribute(Linear(), batch, [4, 1], np.array([True]))
    known = (factors[0, -1] * Linear.weights)[[4, 1]]
    np.testing.assert_allclose(found.factors, known, rtol=1e-6)
    np.testing.assert_allclose(found.past_returns, returns[0].sum(0)[[4, 1]] / 20, rtol=1e-5)
    unread = attribute(OfFactors(), batch, [4], np.array([True]))
    assert unread.past_returns == [0.0]
    whole = returns.sum() / 20
    np.testing.assert_allclose(found.past_returns + found.other_stocks, whole, rtol=1e-5)


def test_a_models_slope_is_that_of_small_changes(original: Trained) -> None:
    """The gradient of the model's own kernels, against differences."""
    day = Member(reopen(original.run), None)
    batch = day.experiment.data.windows.part(np.array([day.row]))[[0]]
    model = day.experiment.model.double()
    batch = Batch(
        *(each.double() if each.is_floating_point() else each for each in vars(batch).values())
    )
    found = attribute(model, batch, [2], np.array([True]))
    step = 1e-5
    for factor in range(batch.factors.shape[-1]):
        moved = []
        for sign in (1, -1):
            factors = batch.factors.clone()
            factors[0, :, 2, factor] *= 1 + sign * step
            values = {**vars(batch), "factors": factors}
            with torch.no_grad():
                moved.append(float(model(Batch(**values)).returns[0, 0, 2]))
        assert found.factors[0, factor] == pytest.approx(
            (moved[0] - moved[1]) / (2 * step), rel=1e-3
        )


def test_trading_days_to_come() -> None:
    days = pd.bdate_range("2024-01-01", "2024-03-01").to_numpy("datetime64[D]")
    assert [str(d) for d in with_following_days(days, 2)[-2:]] == ["2024-03-04", "2024-03-05"]
    special = np.append(days, np.datetime64("2024-03-02"))  # a Saturday
    assert str(with_following_days(special, 1)[-1]) == "2024-03-04"
    every_day = np.arange("2024-01-01", "2024-03-02", dtype="datetime64[D]")
    assert [str(d) for d in with_following_days(every_day, 2)[-2:]] == ["2024-03-02", "2024-03-03"]


def call(*words: str) -> str:
    valid = dict.fromkeys(("run", "asof", "holdings", "cash", "into"), "")
    return "\n".join(str(piece) for piece in predict(*parse(words, valid, overrides=True)))


def test_the_command_writes_a_dated_forecast_once(trained: Trained) -> None:
    held = trained.files.data_dir / "held.csv"
    held.write_text("ticker,shares\nS05,10\nS06,2.5\n")
    data = f"paths.data_dir={trained.files.data_dir}"
    words = (f"run={trained.run}", data, f"holdings={held}", "cash=1000")
    output = call(*words)
    folder = trained.run / "forecasts" / "2023-04-21"
    assert f"forecast: {folder}/forecast.html" in output
    csv = pd.read_csv(folder / "forecast.csv")
    assert list(csv["rank"]) == list(range(1, 13))
    pd.testing.assert_frame_equal(
        pd.read_parquet(folder / "forecast.parquet")[["ticker", "signal"]],
        csv[["ticker", "signal"]],
    )
    assert set(pd.read_csv(folder / "trades.csv")["side"]) >= {"buy"}
    page = (folder / "forecast.html").read_text()
    assert f"paths.data_dir={trained.files.data_dir}" in page  # of the command that makes it again
    assert "What this model has shown" in page
    call(*words)  # the same again
    before = (folder / "forecast.csv").read_bytes()
    trained.files.frames["S02"].loc[79, "Close"] *= 1.005  # a correction of the data
    trained.files.write()
    with pytest.raises(ValueError, match="differs from this forecast"):
        call(*words)
    assert (folder / "forecast.csv").read_bytes() == before


def test_folders_of_runs_are_forecast_together_by_the_best_of_each(
    original: Trained, tmp_path: Path
) -> None:
    other = Trained(tmp_path, "seed=7", "trainer.max_epoch=2")
    data = f"paths.data_dir={other.files.data_dir}"
    folders = f"run=[{original.run.parent},{other.run.parent}]"
    output = call(folders, data, f"into={tmp_path}/forecast")
    assert "the mean of 2 runs" in output
    page = (tmp_path / "forecast/forecast.html").read_text()
    assert "ensemble of 2 configurations with equal weights" in page
    with pytest.raises(ValueError, match="name the folder of their forecast with into=FOLDER"):
        call(folders, data)


def test_a_holding_that_cannot_be_sold_is_named_and_blocks_no_other(
    trained: Trained, caplog: pytest.LogCaptureFixture
) -> None:
    trained.append_a_day("S03")  # delisted
    day = trained.forecast()
    worst = day.stocks["ticker"].iloc[-1]
    kept = {"S03": 5.0, worst: 5.0, day.stocks["ticker"].iloc[-2]: 5.0}
    found = trades(day, kept, 1000)
    assert found.loc[found["side"] == "sell", "ticker"].tolist() == [worst]
    held = trained.files.data_dir / "held.csv"
    held.write_text("ticker,shares\n" + "".join(f"{t},{n}\n" for t, n in kept.items()))
    words = (f"run={trained.run}", f"paths.data_dir={trained.files.data_dir}")
    call(*words, f"holdings={held}")
    folder = trained.run / "forecasts" / str(day.asof)
    page = (folder / "forecast.html").read_text()
    assert "Held without a price on that day, so not to be sold: S03" in page
    assert f"closes of {day.asof} with" in page
    call(*words)
    assert "trades.csv: removed, because this call names no holdings" in caplog.text
    with pytest.raises(ValueError, match="Did you mean 'holdings'"):
        call(*words, f"hodings={held}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("ticker,amount\nS01,1\n", "needs the columns ticker, shares"),
        ("ticker,shares\nS01,many\n", "line 2: shares 'many' of S01"),
        ("ticker,shares\nS01,1\nS01,2\n", "line 3: ticker 'S01' occurs twice"),
        ("ticker,shares\nS01,-1\n", "line 2"),
        ("ticker,shares\nXX,1\n", "XX is not a stock of the model"),
    ],
)
def test_holdings_that_cannot_be_read(original: Trained, content: str, message: str) -> None:
    held = original.files.data_dir / "bad.csv"
    held.write_text(content)
    data = f"paths.data_dir={original.files.data_dir}"
    with pytest.raises(ValueError, match=message):
        call(f"run={original.run}", data, f"holdings={held}")


def test_the_program_says_what_is_wrong_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import predict as program

    monkeypatch.setattr(sys, "argv", ["predict.py", f"run={tmp_path}/none"])
    with pytest.raises(SystemExit, match=r"^error: .*none"):
        program.main()
