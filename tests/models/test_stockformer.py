"""The model against reference outputs, gradients and losses of the published implementation."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from stockformer.interface import Forecast
from stockformer.models.published import load_published, translate
from stockformer.models.stockformer import Stockformer
from stockformer.models.wavelet import band_matrices
from stockformer.training.losses import PublishedLoss

NAMES = ("small", "short", "wide")
PUBLISHED_SLOTS = (5, 50)


class Golden:
    """One golden file: inputs, published weights, and what the published model made of them."""

    def __init__(self, path: Path, dtype: torch.dtype) -> None:
        with np.load(path, allow_pickle=False) as arrays:
            self.arrays = {
                name: torch.as_tensor(arrays[name]) for name in arrays.files if name != "config"
            }
            config = ast.literal_eval(str(arrays["config"]))
        cast = {k: v.to(dtype) if v.is_floating_point() else v for k, v in self.arrays.items()}
        self.inputs = [cast[f"in_{k}"] for k in ("x_low", "x_high", "trend", "factors", "time")]
        self.y, self.y_low, self.up = cast["y"], cast["y_low"], cast["y_class"]
        self.model = build(config, cast["in_graph"]).to(dtype)
        load_published(self.model, self.group("weight/", cast))

    def group(self, prefix: str, arrays: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        arrays = arrays or self.arrays
        return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}

    def loss(self) -> Tensor:
        forecast = self.model.forecast(*self.inputs)
        loss = PublishedLoss(horizon=self.y.shape[1], wavelet="sym2")
        sums = loss.sums_of(forecast, self.y, self.y_low, self.up)
        return loss.parts(sums, loss.counts_of(self.y, self.y_low)).total


def build(config: dict[str, int], graph: Tensor, **changes: object) -> Stockformer:
    settings: dict[str, object] = {
        "width": config["width"],
        "layers": config["layers"],
        "heads": 1,
        "dropout": 0.0,
        "lookback": config["lookback"],
        "horizon": config["horizon"],
        "wavelet": "sym2",
        "calendar_slots": PUBLISHED_SLOTS,
        "activation_checkpointing": False,
        "factors": config["factors"],
        "graph": graph,
        "learn_graph": False,
    }
    return Stockformer(**(settings | changes))  # type: ignore[arg-type]


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def golden(shared: Path, name: str, dtype: torch.dtype = torch.float64) -> Golden:
    return Golden(shared / "golden" / f"stockformer_{name}.npz", dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_outputs_and_loss_are_the_published_ones(
    shared: Path, name: str, dtype: torch.dtype, tolerance: float
) -> None:
    case = golden(shared, name, dtype)
    case.model.eval()
    forecast: Forecast = case.model.forecast(*case.inputs)
    close = {"rtol": tolerance, "atol": tolerance, "check_dtype": False}
    assert_close(forecast.returns, case.arrays["out_return"], **close)
    assert_close(forecast.returns_low, case.arrays["out_return_low"], **close)
    assert_close(forecast.logits, case.arrays["out_class"], **close)
    assert_close(forecast.logits_low, case.arrays["out_class_low"], **close)
    assert_close(case.loss().detach(), case.arrays["loss"], **close)


@pytest.mark.parametrize("name", ["small", "short"])
def test_gradients_are_the_published_ones(shared: Path, name: str) -> None:
    case = golden(shared, name)
    case.loss().backward()
    expected = translate(case.group("grad/"), layers=len(case.model.layers))
    for parameter, tensor in case.model.named_parameters():
        assert tensor.grad is not None, parameter
        assert_close(tensor.grad, expected[parameter], rtol=1e-10, atol=1e-10, msg=parameter)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 1e-4)])
def test_six_training_steps_are_the_published_ones(
    shared: Path, name: str, dtype: torch.dtype, tolerance: float
) -> None:
    case = golden(shared, name, dtype)
    optimizer = torch.optim.Adam(case.model.parameters(), lr=1e-3)
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        loss = case.loss()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(case.model.parameters(), 0.5)
        optimizer.step()
        losses.append(loss.item())
    expected = case.arrays["six_step_losses"].tolist()
    assert losses == pytest.approx(expected, rel=tolerance, abs=tolerance)


def test_a_published_checkpoint_that_does_not_fit_is_refused(shared: Path) -> None:
    case = golden(shared, "short")
    state = case.group("weight/")
    with pytest.raises(ValueError, match=r"no tensor 'features.pre_l.weight'"):
        load_published(case.model, {k: v for k, v in state.items() if k != "features.pre_l.weight"})
    with pytest.raises(ValueError, match="extra"):
        load_published(case.model, state | {"extra": torch.zeros(1)})
    wider = build(
        {"width": 16, "layers": 1, "lookback": 8, "horizon": 1, "factors": 4}, torch.zeros(9, 16)
    )
    with pytest.raises(
        ValueError, match=r"embed_low.0.weight: published \(16, 5\), model \(16, 6\)"
    ):
        load_published(wider, state)


def test_a_duplicate_convolution_in_a_published_checkpoint_is_ignored(shared: Path) -> None:
    case = golden(shared, "short")
    state = case.group("weight/")
    twice = {k.replace("tcn.conv", "tcn.tcn.0.0"): v for k, v in state.items() if ".tcn.conv." in k}
    load_published(case.model, state | twice)


@pytest.mark.parametrize("length", [20, 16, 10, 2])
def test_bands_are_the_published_ones(shared: Path, length: int) -> None:
    low, high = band_matrices(length, "sym2")
    with np.load(shared / "golden" / "wavelet_sym2_level1.npz", allow_pickle=False) as arrays:
        x = arrays[f"wavelet_len{length}_input"]
        for band, matrix in (("low", low), ("high", high)):
            mine = np.einsum("kl,bln->bkn", matrix, x)
            np.testing.assert_allclose(mine, arrays[f"wavelet_len{length}_{band}"], atol=1e-6)


@pytest.mark.parametrize("length", [1, 2, 7, 20])
def test_bands_add_up_to_the_series(length: int) -> None:
    low, high = band_matrices(length, "sym2")
    np.testing.assert_allclose(low + high, np.eye(length), atol=1e-12)


def test_an_unknown_wavelet_is_refused() -> None:
    with pytest.raises(ValueError, match="'sym99' is not a discrete wavelet"):
        band_matrices(20, "sym99")


def small_model(**changes: object) -> Stockformer:
    torch.manual_seed(0)
    config = {"width": 8, "layers": 2, "lookback": 6, "horizon": 2, "factors": 3}
    return build(config, torch.randn(5, 8), **changes).eval()


def small_inputs() -> list[Tensor]:
    torch.manual_seed(1)
    low, high, trend = torch.randn(3, 2, 6, 5).unbind(0)
    return [low, high, trend, torch.randn(2, 6, 5, 3), torch.randint(0, 5, (2, 8, 2))]


def test_both_bands_are_causal_over_days() -> None:
    model, inputs = small_model(), small_inputs()
    seen: list[Tensor] = []
    model.layers[-1].register_forward_hook(lambda _m, _i, out: seen.extend(out))
    model.forecast(*inputs)
    for tensor in inputs[:4]:
        tensor[:, 4:] += 1.0  # the last two of six days change
    model.forecast(*inputs)
    for before, after in ((seen[0], seen[2]), (seen[1], seen[3])):
        assert torch.equal(before[:4], after[:4])
        assert not torch.allclose(before[4:], after[4:])


def test_a_permutation_of_the_stocks_permutes_the_forecast() -> None:
    model, inputs = small_model(), small_inputs()
    order = torch.tensor([3, 0, 4, 1, 2])
    before = model.forecast(*inputs).returns
    model.graph = model.graph[order]
    low, high, trend, factors, calendar = inputs
    after = model.forecast(
        low[..., order], high[..., order], trend[..., order], factors[:, :, order], calendar
    ).returns
    assert_close(after, before[..., order])


def test_several_heads_and_a_learned_graph_train() -> None:
    model = small_model(heads=4, learn_graph=True)
    forecast = model.forecast(*small_inputs())
    (forecast.returns.sum() + forecast.logits.sum()).backward()
    assert model.graph.grad is not None
    assert model.graph.grad.abs().sum() > 0


def train_step(model: Stockformer, **autocast: bool) -> tuple[Forecast, list[Tensor]]:
    torch.manual_seed(2)
    with torch.autocast("cpu", torch.bfloat16, **autocast):
        forecast = model.train().forecast(*small_inputs())
    loss = forecast.returns.square().sum() + forecast.logits.square().sum()
    return forecast, list(torch.autograd.grad(loss, list(model.parameters())))


@pytest.mark.parametrize("bfloat16", [False, True])
def test_checkpointing_changes_no_gradient_by_a_bit(bfloat16: bool) -> None:
    settings = {"dropout": 0.5, "learn_graph": True}
    _, plain = train_step(small_model(**settings), enabled=bfloat16)
    model = small_model(**settings, activation_checkpointing=True)
    _, again = train_step(model, enabled=bfloat16)
    for (name, _), a, b in zip(model.named_parameters(), plain, again):
        assert torch.equal(a, b), name


def test_in_half_precision_the_forecast_is_near_and_stocks_do_not_tie() -> None:
    near, gradients = train_step(small_model(), enabled=True)
    exact, expected = train_step(small_model(), enabled=False)
    assert near.returns.dtype == near.logits.dtype == torch.float32
    assert_close(near.returns, exact.returns, rtol=0, atol=0.03)
    assert (near.returns != near.returns.bfloat16()).float().mean() > 0.9
    norms = [torch.stack([g.norm() for g in group]).norm() for group in (gradients, expected)]
    assert norms[0] == pytest.approx(norms[1].item(), rel=0.05)


def test_in_half_precision_no_activation_is_wider() -> None:
    model = small_model()
    types: set[torch.dtype] = set()
    for layer in model.layers:
        for module in layer.children():
            module.register_forward_hook(lambda _m, _i, out: types.add(out.dtype))
    train_step(model, enabled=True)
    assert types == {torch.bfloat16}


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match=r"model.width=8 must be a multiple of model.heads=3"):
        small_model(heads=3)
