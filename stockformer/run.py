"""The run folder: the one place that knows the name of every artefact a run leaves."""

from __future__ import annotations

import csv
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

log = logging.getLogger(__name__)


class RunDir:
    """One run's folder, owned from `claim` on; leaving the context says how the run ended.

    status.json    running, finished or failed, with the reason; its creation is the claim
    config.yaml    the configuration, unresolved: what is needed to rebuild the run
    overrides.json what the command line asked for
    manifest.json  versions, commit, seed, data hashes, factor names in order, split dates
    train.log      what the terminal said, with times
    metrics.csv    one row an epoch; evaluation.json: the best epoch judged on the test days
    tensorboard/   events; checkpoints/{best,last}.safetensors
    predictions.parquet, predictions/{regression,classification}/*.csv
    trades.csv, positions.csv, equity.csv: the ledger of the backtest
    evaluations/   the model judged elsewhere: run folders of their own
    data_quality.html  what is odd about the data; report.html: what analyze.py makes of all this
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.status_file = path / "status.json"
        self.config_file = path / "config.yaml"
        self.overrides_file = path / "overrides.json"
        self.manifest_file = path / "manifest.json"
        self.log_file = path / "train.log"
        self.metrics_file = path / "metrics.csv"
        self.evaluation_file = path / "evaluation.json"
        self.tensorboard_folder = path / "tensorboard"
        self.predictions_file = path / "predictions.parquet"
        self.predictions_folder = path / "predictions"
        self.trades_file = path / "trades.csv"
        self.positions_file = path / "positions.csv"
        self.equity_file = path / "equity.csv"
        self.evaluations_folder = path / "evaluations"
        self.quality_file = path / "data_quality.html"
        self.report_file = path / "report.html"

    @classmethod
    def claim(cls, path: Path) -> Self:
        """Own `path` from now on. Raises ValueError where another run has it, changing nothing."""
        run = cls(path)
        path.mkdir(parents=True, exist_ok=True)
        if run.status_file.exists() or any(path.iterdir()):
            raise ValueError(
                f"run folder {path} is taken or not empty; nothing was changed. Leave "
                "hydra.run.dir to its default, or name a new folder"
            )
        try:
            with run.status_file.open("x") as file:  # O_EXCL: of two starts only one gets here
                json.dump(run._status("running"), file)
        except FileExistsError as error:
            raise ValueError(f"run folder {path} was just taken by another run") from error
        run._start_log()
        return run

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._write(self.status_file, json.dumps(self._status("finished")))
            else:
                log.debug("run failed", exc_info=(type(error), error, traceback))
                reason = f"{type(error).__name__}: {error}"
                self._write(self.status_file, json.dumps(self._status("failed", reason)))
        finally:
            logging.getLogger("stockformer").removeHandler(self._log)
            self._log.close()

    def checkpoint(self, name: str) -> Path:
        """The file of checkpoint `best` or `last`."""
        return self.path / "checkpoints" / f"{name}.safetensors"

    def write_config(self, config: str, overrides: Sequence[str]) -> None:
        self._write(self.config_file, config)
        self._write(self.overrides_file, json.dumps(list(overrides), indent=2))

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        self._write(self.manifest_file, json.dumps(manifest, indent=2))

    def write_quality(self, page: str) -> None:
        self._write(self.quality_file, page)

    def write_evaluation(self, evaluation: Mapping[str, Any]) -> None:
        self._write(self.evaluation_file, json.dumps(evaluation, indent=2, allow_nan=False))

    def append_metrics(self, row: Mapping[str, float]) -> None:
        """Add an epoch; every row has the first one's columns."""
        first = not self.metrics_file.exists()
        with self.metrics_file.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            if first:
                writer.writeheader()
            writer.writerow(row)

    def write_predictions(self, frame: Any) -> None:
        """Write the tidy table of `Predictions.frame()`, and dates x tickers, a file a step."""
        frame.to_parquet(self.predictions_file, index=False)
        tasks = {"regression": ("prediction", "label"), "classification": ("probability", "up")}
        frame = frame.assign(up=frame["up"].astype("Int8").mask(~frame["valid"]))
        for task, columns in tasks.items():
            folder = self.predictions_folder / task
            folder.mkdir(parents=True, exist_ok=True)
            for step, cells in frame.groupby("step"):
                for column in columns:
                    name = "label" if column == "up" else column
                    wide = cells.pivot(index="signal_date", columns="ticker", values=column)
                    wide.to_csv(folder / f"{name}_step{step}.csv", date_format="%Y-%m-%d")

    def write_ledger(self, trades: Any, positions: Any, equity: Any) -> None:
        """Write the frames of a `Backtest`; equity is indexed by date."""
        for path, frame in (
            (self.trades_file, trades),
            (self.positions_file, positions),
            (self.equity_file, equity.reset_index()),
        ):
            self._write(path, frame.to_csv(index=False, date_format="%Y-%m-%d"))

    def _status(self, state: str, reason: str = "") -> dict[str, Any]:
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        return {"state": state, "reason": reason, "time": now, "process": os.getpid()}

    def _start_log(self) -> None:
        self._log = logging.FileHandler(self.log_file)
        self._log.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
        logging.getLogger("stockformer").addHandler(self._log)

    def _write(self, path: Path, text: str) -> None:
        """Whole or not at all: a reader never finds half a file."""
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            with temporary.open("w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
