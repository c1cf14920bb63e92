"""How long predict.py takes: python -m benchmarks.prediction --data FOLDER [--quick]

Whole processes on NIFTY-200 with 158 factors, less one that imports torch alone: with the prepared
data in the cache, with those of the day before, as on a new day, and with an empty cache.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
MODELS = ("stockformer_small", "stockformer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of reference data")
    parser.add_argument("--quick", action="store_true", help="small model, once")
    arguments = parser.parse_args()
    repeats = 1 if arguments.quick else 5
    for model in MODELS[: 1 if arguments.quick else None]:
        with tempfile.TemporaryDirectory() as folder:
            measure(model, arguments.data, Path(folder), repeats)


def measure(model: str, data: Path, folder: Path, repeats: int) -> None:
    shutil.copytree(data / "nifty200", folder / "data" / "nifty200")
    prices = {path: path.read_text() for path in (folder / "data/nifty200/raw").glob("*.csv")}
    place = [f"paths.data_dir={folder}/data", f"paths.cache_dir={folder}/cache"]
    words = ["experiment=nifty_wf", "split.fold=5", f"model={model}", "trainer.max_epoch=1"]
    run(str(ROOT / "train.py"), *words, *place, "report=false", f"hydra.run.dir={folder}/run")
    seconds: dict[str, list[float]] = {"torch": [], "cached": [], "new day": [], "no cache": []}
    for _ in range(repeats):
        seconds["torch"].append(run("-c", "import torch"))
        seconds["cached"].append(predicted(folder, place))
        shutil.rmtree(folder / "cache")
        seconds["no cache"].append(predicted(folder, place))
        shutil.rmtree(folder / "cache")
        for path, text in prices.items():
            path.write_text(text[: text.rstrip().rindex("\n") + 1])
        predicted(folder, place)
        for path, text in prices.items():
            path.write_text(text)
        seconds["new day"].append(predicted(folder, place))
    torch = median(seconds.pop("torch"))
    taken = ", ".join(f"{what} {median(values) - torch:.2f} s" for what, values in seconds.items())
    print(f"{model}: beyond importing torch ({torch:.2f} s): {taken}")


def predicted(folder: Path, place: list[str]) -> float:
    return run(str(ROOT / "predict.py"), f"run={folder}/run", *place)


def run(*arguments: str) -> float:
    """Seconds of a Python process."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
