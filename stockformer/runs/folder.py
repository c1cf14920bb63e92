"""The run folder: the one place that knows the name of every artefact a run leaves."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from stockformer.config.quoting import pasteable
from stockformer.runs import atomic
from stockformer.runs.logs import LogFile, PrintableFormatter
from stockformer.runs.typed_json import Form, parse_json

log = logging.getLogger(__name__)

_owned: set[str] = set()
"""Folders that this process holds the lock of."""

TREES = ("outputs", "multirun")
"""Where runs and sweeps go by default, below the folder they are started in."""

SWEEP_FILE = "sweep.json"
"""In the folder above the runs of a sweep."""

LONGER = {"trainer.max_epoch", "trainer.early_stopping.patience"}
MAY_CHANGE = {
    *("resume", "report", "tags", "config_dir", "trust", "paths.data_dir", "paths.cache_dir"),
    *LONGER,
    *("trainer.micro_batch_size", "trainer.num_workers", "trainer.device", "trainer.oom"),
    *("trainer.on_nonfinite", "trainer.skip_limit", "trainer.keep_every", "trainer.keep"),
}
"""Keys that a resumed run may change: none changes the epochs that it has completed."""

REPEATED = ("seed", "split.fold")
"""Keys that runs of one configuration may differ in."""

STATES = ("running", "finished", "failed", "interrupted", "pruned")
STATUS = {
    **{"state": str, "reason?": str, "time?": str, "process?": int, "host?": str, "id?": str},
    "seconds?": float,
}
MANIFEST: Form = {
    **{f"{name}?": str for name in ("kind", "dataset", "data_hash", "git_commit", "platform")},
    **{f"{name}?": str for name in ("device", "command", "run")},
    **{f"{name}?": [str] for name in ("warnings", "tags", "tickers", "factor_names")},
    "ensemble_of?": [str],
    **{f"{name}?": {str: str} for name in ("versions", "files")},
    **{"threads?": int, "seed?": int, "resumed?": [{str: object}]},
    "split?": {
        str: {
            "samples": int,
            **{f"{name}_date": str for name in ("first_signal", "last_signal", "last_target")},
        }
    },
}
MAX_TEXT = 256 << 20  # bytes of an artefact of text that is read; settings have some 10,000
MAX_SETTINGS = 4 << 20


AfterEpoch = Callable[[int, Mapping[str, float]], None]
"""Called with an epoch and its validation metrics; may raise to end the run."""


class ProcessLost(OSError):
    """Another process of the run has ended, or does not answer."""


class Pruned(Exception):
    """A search has stopped the run, because others were better after as many epochs."""


def runs_under(tree: Path) -> list[Path]:
    """Every run folder in the tree, sorted; but not the evaluations within a run."""
    runs = {file.parent for file in tree.rglob(RunDir(tree).status_file.name)}
    return sorted(run for run in runs if runs.isdisjoint(run.parents))


class RunDir:
    """One run's folder, owned from `claim` or `reopen` on; leaving the context records its end.

    status.json    running, finished, failed, interrupted or pruned, with the reason and the seconds
                   it ran; its creation is the claim
    lock           held by the living process that owns the folder
    config.yaml    the configuration, unresolved: what is needed to rebuild the run
    overrides.json the overrides of the command line
    manifest.json  versions, commit, seed, data hashes, factor names in order, split dates
    train.log      the terminal's messages, with times
    metrics.csv    one row an epoch; evaluation.json: the best epoch on the test days
    tensorboard/   events; checkpoints/{best,last,previous,epoch-*}.safetensors
    predictions.parquet, predictions/{regression,classification}/*.csv
    trades.csv, positions.csv, equity.csv: the ledger of the backtest
    importance.json what moved the forecasts, if it was asked for later; with its own digest in it
    evaluations/   the model evaluated again or elsewhere: run folders of their own
    data_quality.html  warnings about the data; report.html: the page of analyze.py
    debug/         the dates and state of a number that was not finite
    SHA256SUMS     of the settings, the manifest and the results, as sha256sum checks them;
                   status.json has its own digest in it
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.status_file = path / "status.json"
        self.lock_file = path / "lock"
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
        self.importance_file = path / "importance.json"
        self.evaluations_folder = path / "evaluations"
        self.quality_file = path / "data_quality.html"
        self.report_file = path / "report.html"
        self.debug_file = path / "debug" / "nonfinite.json"
        self.debug_state_file = path / "debug" / "state.safetensors"
        self.sums_file = path / "SHA256SUMS"
        self._writing = threading.Lock()
        self.resumed = False
        self._lock_descriptor: int | None = None
        self.id = ""
        self._started, self._seconds_before = time.monotonic(), 0.0
        # Called before an interrupted run exits; returns what was saved, for the log.
        self.save_on_interrupt: Callable[[], str] = self._before_training

    @classmethod
    def claim(cls, path: Path) -> Self:
        """Own `path` from now on: a new or empty folder, or one whose run was killed too early.

        Raises ValueError where another run has it, changing nothing.
        """
        run = cls(path)
        path.mkdir(parents=True, exist_ok=True)
        run._require_free()
        run._lock()  # of two starts only one gets here
        try:
            run._require_free()  # another may have come and gone meanwhile
            run.id = uuid.uuid4().hex
            run.end("running", "")
            run._start_log()
        except (OSError, ValueError):
            run._unlock()
            raise
        return run

    @classmethod
    def reopen(cls, path: Path) -> Self:
        """Own the folder of a run that has ended, or whose process is dead.

        Raises ValueError where it is no run's, or in use, changing nothing.
        """
        run = cls.follow(path)
        run._seconds_before = float(run.status().get("seconds", 0.0))
        atomic.require_plain_files(path)
        run._lock()
        run.remove_temporary_files()
        run.resumed = True
        run.save_on_interrupt = lambda: (
            f", with nothing new to keep: continue with {run.resume_words}"
        )
        run.end("running", "")
        run._start_log()
        return run

    @classmethod
    def follow(cls, path: Path) -> Self:
        """Read `path`, or, of several processes of one run, leave the writing to the first."""
        run = cls(path)
        if path.exists():
            run.id = str(run.status().get("id", ""))
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
                self.end("finished", "")
            elif isinstance(error, Pruned):
                self.end("pruned", str(error))
            else:
                self.end("failed", f"{type(error).__name__}: {error}")
                log.debug("run failed", exc_info=(type(error), error, traceback))
        except OSError:
            if error is None:
                raise  # else the disk was full before, and `error` has that
        finally:
            logging.getLogger("stockformer").removeHandler(self._log)
            with contextlib.suppress(OSError):  # a failed write was reported when it happened
                self._log.close()
            self._unlock()

    def end(self, state: str, reason: str) -> None:
        """Record how the run ended."""
        atomic.write(self.status_file, self._status(state, reason).encode())

    def status(self) -> dict[str, Any]:
        """The content of status.json. Raises ValueError where `path` is no run's folder."""
        path = self.status_file
        try:
            data = atomic.read(path, MAX_SETTINGS)
        except FileNotFoundError as error:
            if (self.path / SWEEP_FILE).exists():
                raise ValueError(f"{self.path} is a sweep's folder, not a run's: add -m") from error
            raise ValueError(f"{self.path} is not a run folder: it has no status.json") from error
        except OSError as error:
            raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
        status: dict[str, Any] = parse_json(data, STATUS, f"{path}: cannot be read")
        known = {key.removesuffix("?") for key in STATUS}
        if "sha256" in status or not known >= status.keys():  # earlier versions kept no digest
            require_digest(status, data, f"{path}: cannot be read")
        if status["state"] not in STATES:
            raise ValueError(f"{path}: cannot be read: state is none of {', '.join(STATES)}")
        return status

    def begun(self) -> bool:
        """Whether the run got as far as keeping its settings, from which it can go on."""
        return self.overrides_file.exists() or self.trained()

    def trained(self) -> bool:
        """Whether the run got as far as its first checkpoint, from which it must go on."""
        kept = (self.checkpoint("last"), self.checkpoint("previous"), self.metrics_file)
        return any(file.exists() for file in kept)

    def killed(self) -> bool:
        """Whether its process ended without recording it in status.json."""
        try:
            # In this order: it may record its end and let go of the lock between the two.
            return not self.in_use() and self.status()["state"] == "running"
        except ValueError:
            return False

    def _ended_early(self) -> bool:
        """Whether it was killed, or failed, before it could keep its settings."""
        try:
            state = self.status()["state"]
        except ValueError:
            return False
        if self._lock_descriptor is None and self.in_use():  # else its process has gone
            return False
        return state == "running" or (state in ("failed", "interrupted") and not self.begun())

    @property
    def resume_words(self) -> str:
        """What continues it on the command line; of a sweep's job, the sweep."""
        if (self.path.parent / SWEEP_FILE).exists():
            return f"-m {pasteable('resume', self.path.parent)}"
        return pasteable("resume", self.path)

    def in_use(self) -> bool:
        """Whether a living process owns the folder; its lock goes with the process."""
        self.status()
        if str(self.path.resolve()) in _owned:
            return True  # looking at the lock, as below, would let go of it
        return atomic.is_locked(self.lock_file)

    def checkpoint(self, name: str) -> Path:
        """The file of checkpoint `best`, `last`, `previous` or `epoch-N`."""
        return self.path / "checkpoints" / f"{name}.safetensors"

    def epoch_checkpoints(self) -> list[Path]:
        """Those kept every so many epochs, the oldest first."""
        folder = self.checkpoint("last").parent
        paths = folder.glob("epoch-*.safetensors")
        return sorted(paths, key=lambda path: int(path.stem.removeprefix("epoch-")))

    def write_config(self, config: str, overrides: Sequence[str]) -> None:
        """From the second file on the run can be continued, whatever happens."""
        self._write(self.config_file, config.encode())
        self._write(self.overrides_file, json.dumps(list(overrides), indent=2).encode())

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        self._write(self.manifest_file, json.dumps(manifest, indent=2).encode())

    def read_config(self) -> tuple[str, list[str]]:
        """What `write_config` was given. Raises ValueError where that is damaged or missing."""
        try:
            config = self.read(self.config_file, MAX_SETTINGS).decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.config_file}: damaged: not UTF-8 text") from error
        return config, list(self.read_json(self.overrides_file, [str]))

    def read_manifest(self, *keys: str) -> dict[str, Any]:
        """What `write_manifest` was given. Raises ValueError where one of `keys` is missing too."""
        manifest: dict[str, Any] = self.read_json(self.manifest_file, MANIFEST)
        missing = [key for key in keys if key not in manifest]
        if missing:
            raise ValueError(
                f"{self.manifest_file}: without {', '.join(sorted(missing))}; was the run finished?"
            )
        return manifest

    def read_json(self, path: Path, form: Form) -> Any:
        """An artefact of JSON. Raises ValueError where it is damaged or not of this form."""
        return parse_json(self.read(path, MAX_TEXT), form, str(path))

    def read(self, path: Path, largest: int = atomic.MAX_BYTES) -> bytes:
        """An artefact. Raises ValueError where it is missing or SHA256SUMS has another digest."""
        for _ in range(3):  # the run may be going on, and write it between the two
            sums = self._sums()
            try:
                data = atomic.read(path, largest)
            except OSError as error:
                raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
            if atomic.sha256(data) in sums.get(path.name, ()):
                return data
        if not sums:
            reason = f"{self.sums_file.name} is missing, so its content cannot be verified"
        elif path.name in sums:
            reason = f"its digest is not the one in {self.sums_file.name}"
        elif path == self.metrics_file and "sha256" not in self.status():
            return data  # earlier versions did not list it
        else:
            reason = f"{self.sums_file.name} does not list it"
        raise ValueError(f"{path}: damaged or changed: {reason}")

    def require_whole(self) -> None:
        """Raises ValueError naming what SHA256SUMS lists and the folder lacks.

        Of a run that has not finished the sums of the next file may be there before the file is.
        """
        sums, names = self._sums(), {path.name for path in self._artefacts()}
        for name in sorted(sums.keys() - names):
            raise ValueError(f"{self.sums_file}: damaged or changed: lists {name!r}")
        if self.status()["state"] != "finished":
            return
        if not sums and any(path.exists() for path in self._artefacts()):
            raise ValueError(
                f"{self.sums_file}: damaged: missing; nothing the run left can be verified"
            )
        for name in sorted(sums):
            if not (self.path / name).exists():
                raise ValueError(
                    f"{self.path / name}: damaged: missing; {self.sums_file.name} lists it"
                )

    def verify(self) -> None:
        """Raises ValueError naming what is not, or no longer, as SHA256SUMS lists it."""
        atomic.require_plain_files(self.path)
        self.require_whole()
        for path in self._artefacts():
            if path.exists():
                self.read(path)

    def remove_temporary_files(self) -> None:
        """What killed processes left behind; not in the evaluations, which may be running."""
        for folder in (self.path, self.checkpoint("last").parent, self.debug_file.parent):
            if folder.is_dir():
                atomic.remove_temporary_files(folder)

    def write_quality(self, page: str) -> None:
        self._write(self.quality_file, page.encode())

    def write_evaluation(self, evaluation: Mapping[str, Any]) -> None:
        text = json.dumps(evaluation, indent=2, allow_nan=False)
        self._write(self.evaluation_file, text.encode())

    def write_importance(self, importance: Mapping[str, Any]) -> None:
        """Of a run that has ended: SHA256SUMS, which others may be reading, stays as it is."""
        atomic.write(self.importance_file, with_digest(importance).encode())

    def read_importance(self, form: Form) -> dict[str, Any]:
        """What `write_importance` was given. Raises ValueError where that is damaged."""
        path = self.importance_file
        data = atomic.read(path, MAX_TEXT)
        content: dict[str, Any] = parse_json(data, form, str(path))
        require_digest(content, data, str(path))
        return content

    def write_metrics(self, rows: Sequence[Mapping[str, float]]) -> None:
        """All epochs so far; every row has the first one's columns."""
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        self._write(self.metrics_file, text.getvalue().encode())

    def epochs_done(self) -> int:
        """By the rows of metrics.csv."""
        if not self.metrics_file.exists():
            return 0
        return len(self.read(self.metrics_file, MAX_TEXT).splitlines()) - 1

    def write_debug(self, facts: Mapping[str, Any]) -> None:
        """What a post-mortem found."""
        atomic.write(self.debug_file, json.dumps(facts, indent=2).encode())

    def write_predictions(self, frame: Any) -> None:
        """Write the tidy table of `Predictions.frame()`, and dates x tickers, a file a step."""
        data = io.BytesIO()
        frame.to_parquet(data, index=False)
        self._write(self.predictions_file, data.getvalue())
        tasks = {"regression": ("prediction", "label"), "classification": ("probability", "up")}
        frame = frame.assign(up=frame["up"].astype("Int8").mask(~frame["valid"]))
        for task, columns in tasks.items():
            folder = self.predictions_folder / task
            folder.mkdir(parents=True, exist_ok=True)
            for step, cells in frame.groupby("step"):
                for column in columns:
                    name = "label" if column == "up" else column
                    wide = cells.pivot(index="signal_date", columns="ticker", values=column)
                    text = wide.to_csv(date_format="%Y-%m-%d")
                    atomic.write(folder / f"{name}_step{step}.csv", text.encode())

    def write_ledger(self, trades: Any, positions: Any, equity: Any) -> None:
        """Write the frames of a `Backtest`; equity is indexed by date."""
        for path, frame in (
            (self.trades_file, trades),
            (self.positions_file, positions),
            (self.equity_file, equity.reset_index()),
        ):
            text = frame.to_csv(index=False, date_format="%Y-%m-%d")
            self._write(path, text.encode())

    def _before_training(self) -> str:
        if not self.begun():
            return ", before there was anything to keep"
        return f", before the first step: continue with {self.resume_words}"

    def _artefacts(self) -> list[Path]:
        """The files that SHA256SUMS may list."""
        return [
            *(self.config_file, self.overrides_file, self.manifest_file, self.metrics_file),
            *(self.evaluation_file, self.predictions_file, self.quality_file),
            *(self.trades_file, self.positions_file, self.equity_file),
        ]

    def _status(self, state: str, reason: str = "") -> str:
        """As JSON, with the digest of all of it."""
        status = {
            "state": state,
            "reason": reason,
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "process": os.getpid(),
            "host": socket.gethostname(),
            "id": self.id,
            "seconds": round(self._seconds_before + time.monotonic() - self._started, 3),
        }
        return with_digest(status)

    def _require_free(self) -> None:
        """Raises ValueError if the folder holds more than a run that was killed as it began."""
        left = {file.name for file in self.path.iterdir() if not atomic.is_temporary(file)}
        early = (self.status_file, self.lock_file, self.log_file, self.config_file, self.sums_file)
        unclaimed = left <= {self.lock_file.name}
        if not unclaimed and not (left <= {file.name for file in early} and self._ended_early()):
            raise ValueError(
                f"run folder {self.path} is taken or not empty; nothing was changed. Leave "
                "hydra.run.dir to its default, name a new folder, or continue it with "
                f"{self.resume_words}"
            )

    def _lock(self) -> None:
        """Hold the lock until this process ends, however it ends."""
        descriptor = atomic.lock(self.lock_file)
        if descriptor is None:
            raise ValueError(
                f"run folder {self.path} is in use by a process that is still running; nothing "
                "was changed. Wait for it, or stop it"
            )
        self._lock_descriptor = descriptor
        _owned.add(str(self.path.resolve()))

    def _unlock(self) -> None:
        assert self._lock_descriptor is not None
        _owned.discard(str(self.path.resolve()))
        os.close(self._lock_descriptor)
        self._lock_descriptor = None

    def _start_log(self) -> None:
        self._log = LogFile(self.log_file, encoding="utf-8", errors="backslashreplace")
        self._log.setFormatter(PrintableFormatter("%(asctime)s %(levelname)-7s %(message)s"))
        logging.getLogger("stockformer").addHandler(self._log)

    def _write(self, path: Path, data: bytes) -> None:
        """Write an artefact and its line in SHA256SUMS.

        Between the two that has a line for the old and one for the new content: a run that is
        killed there when it is resumed can be resumed again.
        """
        with self._writing:  # a signal's thread may write too
            sums, digest = self._sums(), atomic.sha256(data)
            self._write_sums(sums | {path.name: {digest, *sums.get(path.name, ())}})
            atomic.write(path, data)
            self._write_sums(sums | {path.name: {digest}})

    def _write_sums(self, sums: Mapping[str, set[str]]) -> None:
        atomic.write(self.sums_file, _sums_text(sums).encode())

    def _sums(self) -> dict[str, set[str]]:
        """Of each artefact the digests it may have. Raises ValueError where a byte was changed."""
        sums: dict[str, set[str]] = {}
        try:
            text = atomic.read(self.sums_file, MAX_SETTINGS).decode(errors="replace")
        except FileNotFoundError:
            return sums
        for line in text.splitlines():
            digest, _, name = line.partition("  ")
            sums.setdefault(name, set()).add(digest)
        if _sums_text(sums) != text:
            raise ValueError(f"{self.sums_file}: damaged or changed")
        return sums


def _sums_text(sums: Mapping[str, set[str]]) -> str:
    """Of each artefact the digests it may have, sorted by its name."""
    lines = sorted((name, digest) for name, digests in sums.items() for digest in digests)
    return atomic.sums_text((digest, name) for name, digest in lines)


def with_digest(content: Mapping[str, Any]) -> str:
    """As JSON, with the digest of all of it."""
    return json.dumps({**content, "sha256": _digest(content)})


def require_digest(content: Mapping[str, Any], data: bytes, where: str) -> None:
    """Raises ValueError unless `data`, that `content` was read from, is as `with_digest` wrote."""
    rest = {key: value for key, value in content.items() if key != "sha256"}
    if content.get("sha256") != _digest(rest) or json.dumps(content).encode() != data:
        raise ValueError(f"{where}: damaged or changed: its sha256 is another")


def _digest(content: Mapping[str, Any]) -> str:
    return atomic.sha256(json.dumps(content, sort_keys=True).encode())
