"""What the demo shows, three seeds in float32 and bfloat16: python benchmarks/demo.py [--quick]

Runs `python train.py seed=0`, 1 and 2 with either trainer.precision in a temporary folder. Prints
the best epoch's validation metrics and, on the test dates, the rank IC of the model, of ridge and
of the oracle, the return over the universe after costs of the model and of the oracle in basis
points a day, and the seconds from start to end. --quick: one run, one epoch of a tiny model.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from stockformer.evaluation.backtest import BASIS_POINT

TRAIN = Path(__file__).parents[1] / "train.py"
QUICK = (
    *("dataset.source.days=250", "dataset.source.stocks=20", "dataset.factors=[KMID,ROC5]"),
    *("model.width=8", "model.layers=1", "trainer.max_epoch=1", "report=false"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description="What the demo shows, by seed and precision.")
    parser.add_argument("--quick", action="store_true", help="one run, one epoch of a tiny model")
    quick = parser.parse_args().quick
    print("          seed  validation: MAE, accuracy, rank IC   test rank IC: model, ridge, oracle")
    print("                share of the oracle's rank IC; basis points a day: model, oracle")
    for precision in ("float32",) if quick else ("float32", "bf16"):
        shares = [
            trained(precision, seed, QUICK if quick else ()) for seed in range(1 if quick else 3)
        ]
        mean = sum(shares) / len(shares)
        print(f"{precision}: mean share of the oracle {mean:.0%} (target 60 %)")


def trained(precision: str, seed: int, overrides: Sequence[str]) -> float:
    """The share of the oracle's rank IC that one run reaches; prints its line."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        words = [f"seed={seed}", f"trainer.precision={precision}", "hydra.run.dir=run", *overrides]
        command = [sys.executable, str(TRAIN), *words]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - started
        result = json.loads((Path(folder) / "run" / "evaluation.json").read_text())
        epochs = pd.read_csv(Path(folder) / "run" / "metrics.csv").set_index("epoch")
    best = epochs.loc[result["epoch"]]
    validation = [best[f"validation_{name}"] for name in ("mae", "accuracy", "rank_ic")]
    model, oracle = result["model"]["rank_ic"], result["oracle_rank_ic"]
    ridge = next(row["rank_ic"] for row in result["table"] if row["name"] == "ridge")
    figures = "  ".join(f"{figure:.5f}" for figure in (*validation, model, ridge, oracle))
    excess = result["backtest"]["excess"]["base"]["mean"], result["oracle_excess"]
    money = "  ".join(f"{each / BASIS_POINT:+5.1f}" for each in excess)
    share = f"{model / oracle:4.0%}"
    print(f"{precision:8}  {seed}  {figures}  {share}  {money}  {seconds:.0f} s", flush=True)
    return float(model / oracle)


if __name__ == "__main__":
    main()
