"""What the demo shows, over three seeds: python benchmarks/demo.py

Runs `python train.py seed=0`, 1 and 2 in a temporary folder and prints the test rank IC of the
model, of ridge and of the oracle on the same dates, with the seconds from start to end.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TRAIN = Path(__file__).parents[1] / "train.py"


def main() -> None:
    print("seed  model   ridge   oracle  model/oracle  seconds")
    shares = []
    for seed in range(3):
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            command = [sys.executable, str(TRAIN), f"seed={seed}", "hydra.run.dir=run"]
            subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
            seconds = time.perf_counter() - started
            result = json.loads((Path(folder) / "run" / "evaluation.json").read_text())
        model = result["model"]["rank_ic"]
        ridge = next(row["rank_ic"] for row in result["table"] if row["name"] == "ridge")
        oracle = result["oracle_rank_ic"]
        shares.append(model / oracle)
        print(
            f"{seed:4d}  {model:.4f}  {ridge:.4f}  {oracle:.4f}  {shares[-1]:12.0%}  {seconds:7.1f}"
        )
    print(f"mean share of the oracle: {sum(shares) / len(shares):.0%} (reach 60 %)")


if __name__ == "__main__":
    main()
