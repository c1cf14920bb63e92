"""Every model of conf/model: shapes, stocks, masks, gradients, learning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from small_data import composed
from torch import Tensor, nn
from torch.testing import assert_close

from benchmarks.speed import Size, masked_loss, random_batch
from stockformer.config.build import build
from stockformer.config.schema import config_folder
from stockformer.experiment import Experiment, read_dataset
from stockformer.interface import Batch, Forecast
from stockformer.models.layers import EncoderLayer
from stockformer.models.master import MASTER, market_status
from stockformer.models.stockmixer import CausalLinear
from stockformer.models.tabular import Tabular
from stockformer.models.tcn import TCN
from stockformer.runs.export import Portable
from stockformer.runs.folder import RunDir

SIZE = Size(batch=3, lookback=6, horizon=2, stocks=7, factors=4)
NAMES = sorted(path.stem for path in (config_folder() / "model").glob("*.yaml"))
TABULAR = ("ridge", "lightgbm")
TRAINED = sorted({*NAMES} - {*TABULAR})
ALONE = ("mlp", "lstm", "gru", "transformer", "tcn", *TABULAR)
MASKED = (*ALONE, "cross_section", "master", "stockmixer")
"""Those in which a missing stock does not influence the others; Stockformer has no mask."""


def small(name: str, **changes: Any) -> nn.Module:
    torch.manual_seed(0)
    lines = [f"dataset.lookback={SIZE.lookback}", f"target.horizon={SIZE.horizon}"]
    config = composed(f"model={name}", "dataset=features", "target=next_day", *lines).model
    least = {"lightgbm": {"min_child_samples": 1, "days": 3}, "ridge": {"days": 3}}
    changes = least.get(name, {"width": 8, "dropout": 0.0}) | changes
    config = OmegaConf.merge(config, changes)
    graph = torch.zeros(SIZE.stocks, 8)
    facts = {"factors": SIZE.factors, "stocks": SIZE.stocks, "graph": graph, "learn_graph": False}
    model: nn.Module = build(config, **facts)
    if isinstance(model, Tabular):
        table = model.table([random_batch(SIZE._replace(batch=20))])
        model.learn_distribution(table)
        for _ in model.candidates(table, seed=0):
            pass
    return model.eval()


def windows() -> Batch:
    torch.manual_seed(1)
    return random_batch(SIZE)


def changed(batch: Batch, **values: Tensor) -> Batch:
    return Batch(**{**vars(batch), **values})


def of_stocks(batch: Batch, order: Tensor) -> Batch:
    by_stock = {
        name: tensor[:, :, order]
        for name, tensor in vars(batch).items()
        if name not in ("calendar", "signal")
    }
    return changed(batch, **by_stock)


def test_the_zoo_is_what_conf_has() -> None:
    assert {*NAMES} == {*MASKED, "stockformer", "stockformer_small"}


@pytest.mark.parametrize("name", NAMES)
def test_both_tasks_have_a_forecast_for_each_step_and_stock(name: str) -> None:
    forecast = small(name)(windows())
    cells = (SIZE.batch, SIZE.horizon, SIZE.stocks)
    assert forecast.returns.shape == cells
    assert forecast.logits.shape == (*cells, 2)
    assert forecast.returns.isfinite().all()
    for outputs in (forecast.returns, forecast.logits[..., 1]):  # each depends on its own window
        assert (outputs.std(dim=(0, 2)) > 1e-4).all()


@pytest.mark.parametrize("name", NAMES)
def test_samples_of_a_batch_do_not_influence_each_other(name: str) -> None:
    model, batch = small(name), windows()
    assert_close(model(batch.rows(slice(1, 2))).returns, model(batch).returns[1:2])


@pytest.mark.parametrize("name", NAMES)
def test_only_stockmixer_depends_on_the_order_of_the_stocks(name: str) -> None:
    model, batch, order = small(name), windows(), torch.tensor([3, 0, 6, 4, 1, 2, 5])
    before, after = model(batch), model(of_stocks(batch, order))
    same = torch.allclose(after.returns, before.returns[..., order], rtol=1e-4, atol=1e-6)
    assert same == (name != "stockmixer")


@pytest.mark.parametrize("name", ALONE)
def test_where_each_stock_is_alone_the_others_do_not_matter(name: str) -> None:
    model, batch = small(name), windows()
    one = of_stocks(batch, torch.tensor([2]))
    assert_close(model(one).returns[..., 0], model(batch).returns[..., 2])


@pytest.mark.parametrize("name", TRAINED)
def test_the_gradient_reaches_every_parameter(name: str) -> None:
    model, batch = small(name).train(), windows()
    masked_loss(SIZE)(model(batch), batch).total.backward()
    idle = getattr(model, "idle", ())
    for parameter, tensor in model.named_parameters():
        assert tensor.grad is not None, parameter
        assert tensor.grad.isfinite().all(), parameter
        assert tensor.grad.abs().max() > 0 or parameter in idle, parameter


def with_noise(batch: Batch, where: Tensor) -> Batch:
    """Other inputs where (B, L, N)."""
    returns = torch.where(where, torch.randn_like(batch.returns), batch.returns)
    factors = torch.where(where[..., None], torch.randn_like(batch.factors), batch.factors)
    return changed(batch, returns=returns, trend=(returns > 0).float(), factors=factors)


@pytest.mark.parametrize("name", MASKED)
def test_a_missing_stock_does_not_influence_the_others(name: str) -> None:
    model, batch = small(name), windows()
    batch.known[:, :, 2] = False
    others = [0, 1, 3, 4, 5, 6]
    before, after = model(batch), model(with_noise(batch, ~batch.known))
    for one, other in ((before.returns, after.returns), (before.logits, after.logits)):
        assert_close(one[:, :, others], other[:, :, others], rtol=0, atol=1e-6)
    if name not in ALONE:  # the same noise, were the stock known, would
        known = changed(batch, known=torch.ones_like(batch.known))
        moved = model(with_noise(known, ~batch.known)).returns - model(known).returns
        assert moved[:, :, others].abs().max() > 1e-4


def test_master_attends_to_no_unknown_day() -> None:
    model, batch = small("master"), windows()
    batch.known[:, 1:4, 2] = False
    batch.known[:, 2, 4] = False
    before, after = model(batch), model(with_noise(batch, ~batch.known))
    assert_close(before.returns, after.returns, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in MASKED if name in TRAINED])
def test_windows_in_which_nothing_is_known_train(name: str) -> None:
    model, batch = small(name).train(), windows()
    nothing = torch.zeros_like(batch.returns)
    batch.known[0] = False
    batch.known[1, -1] = False
    batch = changed(batch, returns=nothing, trend=nothing, factors=torch.zeros_like(batch.factors))
    forecast = model(batch)
    forecast.returns.square().sum().backward()
    assert forecast.returns.isfinite().all()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("name", TRAINED)
def test_in_half_precision_the_forecast_is_near_and_stocks_do_not_tie(name: str) -> None:
    model, batch = small(name), windows()
    exact = model(batch).returns
    with torch.autocast("cpu", torch.bfloat16):
        near: Forecast = model(batch)
    assert near.returns.dtype == near.logits.dtype == torch.float32
    assert_close(near.returns, exact, rtol=0, atol=0.05)
    assert (near.returns != near.returns.bfloat16()).float().mean() > 0.9


def test_the_market_is_described_by_its_known_stocks() -> None:
    returns = torch.tensor([[[0.01, 0.03, 9.0], [-0.01, 0.01, 9.0]]])
    known = torch.tensor([[[True, True, False], [True, True, False]]])
    batch = changed(windows(), returns=returns, known=known)
    mean, dispersion = torch.tensor([2.0, 0.0]), torch.tensor([1.0, 1.0])  # percent, by day
    expected = [mean[-1], dispersion[-1], mean.mean(), dispersion.mean(), torch.tensor(1.0), 0.001]
    assert_close(market_status(batch)[0], torch.tensor([float(value) for value in expected]))


def test_the_gate_of_a_uniform_market_changes_nothing() -> None:
    model = small("master")
    assert isinstance(model, MASTER)
    nn.init.zeros_(model.gate.weight.weight)
    nn.init.zeros_(model.gate.weight.bias)
    x = torch.randn(2, 3, 4, SIZE.factors + 1)
    assert_close(model.gate(x, torch.randn(2, 6)), x)


def test_attention_is_a_mean_of_the_known() -> None:
    torch.manual_seed(0)
    layer = EncoderLayer(8, 2, 0.0)
    x, known = torch.randn(1, 5, 8), torch.tensor([[True, True, False, True, False]])
    assert_close(layer(x, known)[:, [0, 1, 3]], layer(x[:, [0, 1, 3]]))


def test_the_convolutions_are_causal_and_see_as_many_days_as_promised() -> None:
    torch.manual_seed(0)
    model = TCN(width=4, layers=2, kernel=3, dropout=0.0, horizon=1, factors=1)
    for name, parameter in model.blocks.named_parameters():
        if name.endswith("bias"):
            nn.init.constant_(parameter, 10.0)  # no ReLU is closed
    x = torch.randn(1, 2, 40, requires_grad=True)
    (gradient,) = torch.autograd.grad(model.blocks(x)[0, :, 30].sum(), x)
    seen = gradient.abs().sum(dim=(0, 1)).nonzero().flatten()
    assert (int(seen.min()), int(seen.max())) == (30 - 2 * 2 * (2**2 - 1), 30)


def test_time_mixing_is_causal() -> None:
    x = torch.randn(6, requires_grad=True)
    (gradient,) = torch.autograd.grad(CausalLinear(6, 6)(x)[3], x)
    assert (gradient != 0).tolist() == [True, True, True, True, False, False]


def test_stockmixer_leaves_out_the_oldest_days_that_fill_no_step() -> None:
    model, batch = small("stockmixer", scales=[4]), windows()
    old = torch.zeros_like(batch.known)
    old[:, :2] = True
    assert torch.equal(model(with_noise(batch, old)).returns, model(batch).returns)


@pytest.mark.full
@pytest.mark.parametrize("name", TRAINED)
def test_every_model_is_exported(name: str) -> None:
    model, batch = small(name), windows().rows(slice(1))
    portable = Portable(model, 0.5).eval()
    inputs = (batch.returns, batch.factors, batch.calendar, batch.known)
    exported = torch.export.export(portable, inputs, strict=False).module()
    for ours, theirs in zip(portable(*inputs), exported(*inputs)):
        assert_close(ours, theirs)


QUICK = ("lstm", "stockmixer", "ridge")


@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(n, marks=pytest.mark.full) for n in NAMES if n not in QUICK)]
)
def test_learns_a_market_with_a_strong_signal(name: str, tmp_path: Path) -> None:
    """Half of what is attainable; a linear model of one day finds less than a quarter.

    Twice the demo's signal, so that few days and epochs suffice.
    """
    size = "model.days=10" if name in TABULAR else "model.width=32"
    config = composed(
        *("experiment=demo", f"model={name}", "trainer.device=cpu", "trainer.max_epoch=4", size),
        *("dataset.source.days=350", "dataset.source.stocks=60"),
        *("dataset.source.signal_strength=0.4", "scheduler=constant"),
    )
    with RunDir.claim(tmp_path / "run") as run:
        Experiment(config, read_dataset(config)).train(run, [])
    evaluation = json.loads(run.evaluation_file.read_text())
    assert evaluation["oracle_rank_ic"] > 0.2
    share = 0.3 if name == "cross_section" else 0.5  # half of the signal is in earlier days
    assert evaluation["model"]["rank_ic"] > share * evaluation["oracle_rank_ic"]
