"""What to run first on a GPU: python -m benchmarks.gpu [--data FOLDER] [--device cuda] [--quick]

Prints, in this order: how far outputs and gradients in float32 are from those of the CPU in
float64; milliseconds and peak memory of a training step of the published size by mode, compiled
with CUDA graphs too; whether a run that stops after an epoch and is resumed has the numbers of one
that does not, with trainer.deterministic=true; and the seconds of an epoch of
dataset=nifty200_phase5 (--data: the folder that holds it). Nothing is written. --quick: a small
size, also on --device cpu, to see that the script works.

Targets on an H100 or H200: a step under 5 ms, an epoch under 0.4 s.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from benchmarks.speed import ROOT, Size, masked_loss, random_batch, step_of, stockformer
from stockformer.training.memory import peak_memory_mib

MODES = {
    "float32": ("highest", False, False),
    "tf32": ("high", False, False),
    "bfloat16": ("highest", True, False),
    "float32, compiled": ("highest", False, True),
    "bfloat16, compiled": ("highest", True, True),
}
"""Precision of products in float32; whether in bfloat16; whether compiled."""
REPEATS = 50
DEMO = ("experiment=demo", "scheduler=constant", "report=false", "trainer.deterministic=true")
SMALL_DEMO = ("dataset.source.stocks=12", "dataset.source.days=260", "model.width=8")


def differences(size: Size, device: str) -> tuple[float, float]:
    """The largest difference of outputs and of gradients, relative to the largest value."""
    found = []
    for kind, place in ((torch.float64, "cpu"), (torch.float32, device)):
        torch.manual_seed(0)
        model, loss = stockformer(size).eval().to(kind), masked_loss(size).to(kind)
        batch = random_batch(size)
        moved = {n: v.to(kind) if v.is_floating_point() else v for n, v in vars(batch).items()}
        batch = type(batch)(**moved).to(torch.device(place))
        model.to(place)
        forecast = model(batch)
        loss.to(place)(forecast, batch).total.backward()
        slopes = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        values = [forecast.returns.flatten(), forecast.logits.flatten()]
        found.append([torch.cat(part).detach().cpu().double() for part in (values, slopes)])
    outputs, gradients = (
        float((exact - other).abs().max() / exact.abs().max())
        for exact, other in zip(*found, strict=True)
    )
    return outputs, gradients


def measured(size: Size, device: str, mode: str, repeats: int) -> str:
    """A row of the table of modes."""
    precision, bfloat16, compiled = MODES[mode]
    torch.set_float32_matmul_precision(precision)
    if device == "cuda":
        torch.compiler.reset()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    step = step_of(size, bfloat16, False, compiled, device)
    for _ in range(5):
        step()
    wait(device)
    started = time.perf_counter()
    for _ in range(repeats):
        step()
    wait(device)
    milliseconds = 1e3 * (time.perf_counter() - started) / repeats
    peak = f"{peak_memory_mib(torch.device(device)):.0f} MiB" if device == "cuda" else "-"
    return f"| {mode} | {milliseconds:.2f} ms | {peak} |"


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def train(folder: Path, *overrides: str) -> pd.DataFrame:
    """metrics.csv of a run of train.py; raises RuntimeError with its last lines if it fails."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *overrides],
        cwd=folder.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"train.py {' '.join(overrides)}:\n{done.stdout[-2000:]}{done.stderr}")
    return pd.read_csv(folder / "metrics.csv")


def resumed_alike(device: str, small: Sequence[str]) -> bool:
    """Whether a run of two epochs in two halves has the losses of one in a piece."""
    common = (*DEMO, f"trainer.device={device}", *small)
    with tempfile.TemporaryDirectory() as temporary:
        whole, halves = (Path(temporary) / name for name in ("whole", "halves"))
        first = train(whole, *common, "trainer.max_epoch=2", f"hydra.run.dir={whole}")
        train(halves, *common, "trainer.max_epoch=1", f"hydra.run.dir={halves}")
        second = train(halves, f"resume={halves}", "trainer.max_epoch=2")
    columns = ["train_loss", "validation_loss", "validation_mae"]
    return bool(first[columns].equals(second[columns]))


def epoch_seconds(device: str, data: Path, precision: str) -> float:
    """The least of three epochs; the first compiles kernels and fills caches."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "run"
        words = ["dataset=nifty200_phase5", f"paths.data_dir={data.resolve()}", "report=false"]
        words += [f"trainer.device={device}", f"trainer.precision={precision}"]
        metrics = train(folder, *words, "trainer.max_epoch=3", f"hydra.run.dir={folder}")
    return float(metrics["seconds"].min())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--data", type=Path, help="folder of the prepared NIFTY-200 inputs")
    parser.add_argument("--quick", action="store_true", help="a small size")
    arguments = parser.parse_args()
    device, quick = arguments.device, arguments.quick
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("this machine has no CUDA device; --device cpu --quick shows what is measured")
    size = Size(batch=2, stocks=20, width=16) if quick else Size()
    outputs, gradients = differences(size, device)
    print(f"from float64 on the CPU: outputs {outputs:.1e}, gradients {gradients:.1e}")
    print("| mode | step | peak memory |\n| --- | --- | --- |", flush=True)
    for mode, (_, _, compiled) in MODES.items():
        if not (compiled and device == "cpu"):
            print(measured(size, device, mode, 2 if quick else REPEATS), flush=True)
    alike = resumed_alike(device, SMALL_DEMO if quick else ())
    print(f"a resumed run has the same numbers: {'yes' if alike else 'NO'}", flush=True)
    if arguments.data is not None:
        for precision in ("float32", "bf16"):
            seconds = epoch_seconds(device, arguments.data, precision)
            print(f"an epoch of nifty200_phase5, {precision}: {seconds:.2f} s", flush=True)


if __name__ == "__main__":
    main()
