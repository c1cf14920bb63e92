"""A training step against this machine's own GEMM rate: python benchmarks/step.py

Times, in one process: the float32 product (44,400 x 128)(128 x 128) at the model's own shape, and
warm steps of the published size (B=12, L=20, N=185, F=22, D=128) with the loss, clipping and Adam.
"""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable

import torch

from stockformer.interface import Batch
from stockformer.models.stockformer import Stockformer
from stockformer.training.allocator import keep_freed_memory
from stockformer.training.losses import MaskedLoss

BATCH, LOOKBACK, HORIZON, STOCKS, FACTORS, WIDTH = 12, 20, 2, 185, 22, 128
STEP_GFLOP = 240  # of the published mathematics
REACH = 1.6


def median_seconds(action: Callable[[], object], repeats: int, warm_up: int = 2) -> float:
    seconds = []
    for _ in range(warm_up + repeats):
        started = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[warm_up:])


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def random_batch() -> Batch:
    cells = (BATCH, LOOKBACK, STOCKS)
    ahead = (BATCH, HORIZON, STOCKS)
    returns = 0.02 * torch.randn(cells)
    target = 0.02 * torch.randn(ahead)
    return Batch(
        returns=returns,
        trend=(returns > 0).float(),
        factors=torch.randn(*cells, FACTORS),
        calendar=torch.randint(0, 7, (BATCH, LOOKBACK + HORIZON, 2)),
        target=target,
        up=(target > 0).long(),
        valid=torch.ones(ahead, dtype=torch.bool),
        signal=torch.arange(BATCH),
    )


def main() -> None:
    keep_freed_memory()
    torch.manual_seed(0)
    imported = peak_gib()
    a, b = torch.randn(BATCH * LOOKBACK * STOCKS, WIDTH), torch.randn(WIDTH, WIDTH)
    gemm = median_seconds(lambda: a @ b, repeats=100, warm_up=20)
    rate = 2 * a.numel() * WIDTH / gemm / 1e9

    model = Stockformer(
        width=WIDTH,
        layers=2,
        heads=1,
        dropout=0.2,
        lookback=LOOKBACK,
        horizon=HORIZON,
        wavelet="sym2",
        calendar_slots=(7, 31),
        factors=FACTORS,
        graph=0.1 * torch.randn(STOCKS, WIDTH),
        learn_graph=False,
    )
    loss = MaskedLoss(
        horizon=HORIZON,
        wavelet="sym2",
        error="absolute",
        low_band_return=False,
        regression_weight=1.0,
        classification_weight=1.0,
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    batch = random_batch()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(model(batch), batch).total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()

    seconds = median_seconds(step, repeats=7)
    arithmetic = STEP_GFLOP / rate
    print(f"GEMM rate        {rate:7.0f} GFLOP/s  (44,400 x 128)(128 x 128), float32")
    print(f"arithmetic       {arithmetic:7.2f} s        {STEP_GFLOP} GFLOP at that rate")
    ratio = f"{seconds / arithmetic:.2f} x the arithmetic (reach {REACH})"
    print(f"warm step        {seconds:7.2f} s        {ratio}")
    print(f"peak memory      {peak_gib():7.2f} GiB      {imported:.2f} GiB of it after the imports")


if __name__ == "__main__":
    main()
