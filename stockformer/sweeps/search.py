"""A search by Optuna's ask-and-tell interface; a study that is interrupted goes on where it was.

Not hydra-optuna-sweeper's own loop: continued, it runs n_trials more, repeats the sampler's first
points, reuses folders, and leaves a killed trial running for ever. Its grammar of search spaces is
kept. Runs on Optuna 2.10 and on 4 and 5.
"""

from __future__ import annotations

import inspect
import logging
import math
import os
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.utils import get_object
from optuna import distributions
from optuna.trial import FrozenTrial, Trial, TrialState

from stockformer.evaluation.metrics import OBJECTIVES
from stockformer.runs import atomic
from stockformer.runs.folder import MAY_CHANGE, AfterEpoch, Pruned
from stockformer.sweeps.folder import Job, SweepDir
from stockformer.sweeps.jobs import RUNNING, Outcome, final_state, is_finite, outcome_of
from stockformer.sweeps.study_storage import open_storage, patiently

ATTEMPTS = 2
"""Of a trial whose process was killed: so often it is started in all."""
STATES = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}
OPENINGS = 5
"""Attempts to open a study while others make its tables."""
STARTUP_TRIALS = 5
"""Trials before any is stopped early (median pruner)."""


@dataclass(frozen=True)
class SearchSettings:
    """`hydra.sweeper` of a search. sampler: `_target_` and its arguments, the seed among them."""

    objectives: tuple[str, ...]
    n_trials: int
    pruner: str
    storage: str
    study_name: str
    sampler: Mapping[str, Any]


@dataclass(frozen=True)
class TrialReport:
    """What a job needs to report its validation curve to the study, in whatever process it runs."""

    storage: str
    study_name: str
    trial_id: int
    pruner: str
    objective: str

    def after_epoch(self, max_epoch: int) -> AfterEpoch:
        """A function of epoch and validation metrics. It raises Pruned if the run should stop."""
        silence_optuna()
        pruner = make_pruner(self.pruner, max_epoch)
        storage = open_storage(self.storage)
        study = optuna.load_study(study_name=self.study_name, storage=storage, pruner=pruner)
        trial = Trial(study, self.trial_id)
        frozen = (t for t in study.get_trials(deepcopy=False) if t._trial_id == self.trial_id)
        known = set(next(frozen).intermediate_values)

        def is_hopeless(epoch: int, value: float) -> bool:
            trial.report(value, epoch)
            return epoch < max_epoch and trial.should_prune()

        def report(epoch: int, metrics: Mapping[str, float]) -> None:
            value = metrics[self.objective]
            if epoch in known or math.isnan(value):  # reported before an interruption; undefined
                return
            if patiently(lambda: is_hopeless(epoch, value)):
                title = OBJECTIVES[self.objective].title
                raise Pruned(
                    f"{self.pruner} pruner, after epoch {epoch} of {max_epoch}: validation "
                    f"{title} {OBJECTIVES[self.objective].in_words(value)}"
                )

        return report


class Search:
    """The jobs of a study: those that were interrupted, then new ones up to `n_trials` in all.

    fixed: words of every job; space: by key, what a trial chooses. Raises ValueError for a space or
    a storage that Optuna cannot use.
    """

    counts_failures = True

    def __init__(
        self,
        folder: SweepDir,
        settings: SearchSettings,
        fixed: Sequence[str],
        space: Mapping[str, Override],
    ) -> None:
        silence_optuna()
        self.folder, self.settings, self.fixed = folder, settings, tuple(fixed)
        self._own_path = folder.path.resolve()
        self.space = {}
        for key, override in space.items():
            try:
                self.space[key] = distribution(override)
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from error
        self.total, self.objectives = settings.n_trials, settings.objectives
        self.study = self._study()
        self._interrupted: list[Trial] = []
        self._trials: dict[int, Trial] = {}
        self._recover()

    @property
    def done(self) -> int:
        return sum(trial.state.is_finished() for trial in self._counted())

    def next(self) -> Job | None:
        if not self._interrupted and self._started() >= self.total:
            self._recover()  # what other controllers of the study have left since
        if self._interrupted:
            return self._job(self._interrupted.pop(0))
        if self._started() >= self.total:
            return None
        trial = self.study.ask(self.space)  # a killed one's values first, if it is to be retried
        if self._started(before=trial.number) >= self.total:  # others asked at the same moment
            self._fail(trial, f"more than hydra.sweeper.n_trials={self.total}", replaced=True)
            return None
        if "words" not in trial.user_attrs:
            words = [f"{key}={value}" for key, value in trial.params.items()]
            trial.set_user_attr("folder", str(self.folder.job_folder(trial.number).resolve()))
            trial.set_user_attr("words", words)
        trial.set_user_attr("sweep", str(self._own_path))
        return self._job(trial)

    def ended(self, job: Job, outcome: Outcome) -> None:
        if outcome.state != "interrupted":  # else it goes on when the sweep is resumed
            self._tell(self._trials.pop(job.number), outcome)

    def outcomes(self, recent: Mapping[int, tuple[Job, Outcome]]) -> dict[int, tuple[Job, Outcome]]:
        """Of every trial that counts, those of an earlier start by what the study knows."""
        found = {}
        for trial in self._counted():
            if "words" not in trial.user_attrs:
                continue
            job = self._job_of(trial, reporter=None)
            if job.number in recent:
                continue
            now, abandoned = self._settled(trial)
            if "replaced" in now.user_attrs:
                continue
            state = STATES.get(now.state, "interrupted" if abandoned else RUNNING)
            values = dict(zip(self.objectives, now.values or ()))
            seconds = outcome_of(job, "", ()).seconds
            found[job.number] = (
                job,
                Outcome(state, now.user_attrs.get("reason", ""), seconds, values),
            )
        return dict(sorted((found | dict(recent)).items()))

    def _study(self) -> optuna.Study:
        settings = self.settings
        study = open_study(settings.storage, settings.study_name, settings.objectives)
        self._require_same_search(study)
        # Another seed each time: the first points must not be those that were tried before, nor
        # those of another controller that starts at the same moment.
        moved = len(study.get_trials(deepcopy=False))
        if settings.storage != study_url(self.folder):
            moved += zlib.crc32(str(self._own_path).encode())
        study.sampler = make_sampler(settings.sampler, moved)
        return study

    def _require_same_search(self, study: optuna.Study) -> None:
        """Raises ValueError for a study of another search: their trials cannot be compared."""
        fixed = [word for word in self.fixed if not word.startswith(tuple(MAY_CHANGE))]
        ours = [sorted(fixed), {key: repr(value) for key, value in sorted(self.space.items())}]
        before = study.user_attrs.get("search")
        if before is None:
            study.set_user_attr("search", ours)
        elif before != ours:
            raise ValueError(
                f"hydra.sweeper.study_name={self.settings.study_name}: in {self.settings.storage} "
                "it is the study of another search, with other settings or another space; name a "
                "new one"
            )

    def _counted(self) -> list[FrozenTrial]:
        """All trials but those that another one has replaced."""
        trials = self.study.get_trials(deepcopy=False)
        return [trial for trial in trials if "replaced" not in trial.user_attrs]

    def _started(self, before: float = math.inf) -> int:
        """How many trials count that were started, with a lower number than `before`."""
        counted = (trial for trial in self._counted() if trial.state != TrialState.WAITING)
        return sum(trial.number < before for trial in counted)

    def _recover(self) -> None:
        """Tell the study what became of trials that it takes for running and nobody works on."""
        ours = {trial.number for trial in self._trials.values()}
        for frozen in self._counted():
            running = frozen.state == TrialState.RUNNING and frozen.number not in ours
            if not (running and self._is_abandoned(frozen)):
                continue
            trial = Trial(self.study, frozen._trial_id)
            with self._taken_over(frozen) as is_ours:
                if is_ours:
                    self._recover_trial(trial)

    @contextmanager
    def _taken_over(self, trial: FrozenTrial) -> Iterator[bool]:
        """Whether this controller takes the trial; of several that want it, one does."""
        sweep = Path(trial.user_attrs.get("sweep", ""))
        if "sweep" not in trial.user_attrs or sweep == self._own_path:
            yield True
            return
        descriptor = atomic.lock(sweep / "lock")  # the dead controller's
        if descriptor is None:
            yield False
            return
        try:
            os.ftruncate(descriptor, 0)  # its jobs elsewhere end: the lock is no longer theirs
            now = self._now(trial)
            yield now.state == TrialState.RUNNING and now.user_attrs["sweep"] == str(sweep)
        finally:
            os.close(descriptor)

    def _now(self, trial: FrozenTrial) -> FrozenTrial:
        """The trial as the study has it at this moment."""
        return self.study.get_trials(deepcopy=False)[trial.number]

    def _settled(self, trial: FrozenTrial) -> tuple[FrozenTrial, bool]:
        """The trial, and whether nobody works on it although it has not ended.

        Between the reading of the trial and that of the lock, its controller may have finished it
        and ended, or another one have taken it over: it is read until nothing has changed.
        """
        while not trial.state.is_finished() and self._is_abandoned(trial):
            now = self._now(trial)
            if (now.state, now.user_attrs) == (trial.state, trial.user_attrs):
                return now, True
            trial = now
        return trial, False

    def _is_abandoned(self, trial: FrozenTrial) -> bool:
        """Whether its controller is this sweep's former one, or another whose lock is free."""
        if "sweep" not in trial.user_attrs:  # killed before it could be said whose it is
            return self.settings.storage == study_url(self.folder)
        sweep = Path(trial.user_attrs["sweep"])
        if sweep == self._own_path:
            return True
        return sweep.is_dir() and not atomic.is_locked(sweep / "lock")

    def _recover_trial(self, trial: Trial) -> None:
        attributes = trial.user_attrs
        if "sweep" not in attributes:
            self._fail(trial, "stopped before it was started", replaced=True)
            return
        job = self._job(trial)
        state = final_state(job.run)
        if state in ("finished", "failed", "pruned"):
            self._tell(trial, outcome_of(job, "", self.objectives))
        elif state != "killed":  # interrupted with its state saved, or not started
            trial.set_user_attr("sweep", str(self._own_path))
            self._interrupted.append(trial)
        elif attributes.get("attempts", 1) < ATTEMPTS:
            self._fail(trial, "killed; tried once more", replaced=True)
            # Without "sweep": it is nobody's until a controller asks for it.
            kept = {name: attributes[name] for name in ("folder", "words")}
            enqueue(self.study, trial.params, kept | {"attempts": ATTEMPTS})
        else:
            self._fail(trial, f"killed {ATTEMPTS} times")

    def _job(self, trial: Trial) -> Job:
        """The job that works on the trial from now on."""
        settings = self.settings
        report = TrialReport(
            storage=settings.storage,
            study_name=settings.study_name,
            trial_id=trial._trial_id,
            pruner=settings.pruner,
            objective=self.objectives[0],
        )
        job = self._job_of(trial, None if settings.pruner == "none" else report.after_epoch)
        self._trials[job.number] = trial
        return job

    def _job_of(
        self, trial: Trial | FrozenTrial, reporter: Callable[[int], AfterEpoch] | None
    ) -> Job:
        """A job has the number of its folder: a trial that is tried again keeps both."""
        words, folder = tuple(trial.user_attrs["words"]), Path(trial.user_attrs["folder"])
        return Job(
            number=int(folder.name),
            words=(*self.fixed, *words),
            varied=words,
            folder=folder,
            reporter=reporter,
        )

    def _tell(self, trial: Trial, outcome: Outcome) -> None:
        if outcome.state == "pruned":
            self.study.tell(trial, state=TrialState.PRUNED)
        elif outcome.state == "finished" and is_finite(outcome.values):
            values = [outcome.values[name] for name in self.objectives]
            self.study.tell(trial, values, state=TrialState.COMPLETE)
        else:
            undefined = [name for name, value in outcome.values.items() if math.isnan(value)]
            self._fail(trial, outcome.reason or f"validation {', '.join(undefined)} is not defined")

    def _fail(self, trial: Trial, reason: str, *, replaced: bool = False) -> None:
        trial.set_user_attr("reason", reason)
        if replaced:
            trial.set_user_attr("replaced", True)
        self.study.tell(trial, state=TrialState.FAIL)


def study_url(folder: SweepDir) -> str:
    """The default storage of a search: SQLite in the sweep's folder."""
    return f"sqlite:///{folder.study_file.resolve()}"


def with_driver(url: str) -> str:
    """The URL with psycopg2, the driver of the extra; SQLAlchemy 2.1 would take another one."""
    return url.replace("postgresql://", "postgresql+psycopg2://", 1)


def open_study(storage: str, name: str, objectives: Sequence[str]) -> optuna.Study:
    """The study, made if there is none. Raises ValueError naming the key of what is wrong."""
    directions = [
        "maximize" if OBJECTIVES[objective].higher_is_better else "minimize"
        for objective in objectives
    ]
    other = ValueError(
        f"hydra.sweeper.study_name={name}: the study in {storage} has other objectives; name a new "
        "one"
    )
    for attempt in range(OPENINGS):
        try:
            study = optuna.create_study(
                study_name=name,
                storage=open_storage(storage),
                directions=directions,
                load_if_exists=True,
            )
            break
        except Exception as error:  # of the database's driver, whichever it is
            reason = " ".join(str(error).split())
            if "study direction" in reason:  # of Optuna 2; later ones return the study
                raise other from error
            if "DB access module" in reason:
                reason = "its driver is missing: pip install 'stockformer[postgresql]'"
            exists = "already exists" in reason or "duplicate key" in reason
            if not exists or attempt == OPENINGS - 1:  # else another one makes the tables just now
                raise ValueError(f"hydra.sweeper.storage={storage}: {reason[:300]}") from error
            time.sleep(1)
    if [direction.name.lower() for direction in study.directions] != directions:
        raise other
    return study


def make_sampler(node: Mapping[str, Any], moved: int) -> optuna.samplers.BaseSampler:
    """The sampler of `hydra.sweeper.sampler`, its seed moved on by so much."""
    arguments = {str(key): value for key, value in node.items() if not str(key).startswith("_")}
    if arguments.get("seed") is not None:
        arguments["seed"] = (arguments["seed"] + moved) % 2**32
    try:
        sampler: optuna.samplers.BaseSampler = get_object(node["_target_"])(**arguments)
    except (ImportError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"hydra/sweeper/sampler: {node['_target_']}: {reason}") from error
    return sampler


def make_pruner(name: str, max_epoch: int) -> optuna.pruners.BasePruner:
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS)
    return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=max_epoch)


def distribution(override: Override) -> distributions.BaseDistribution:
    """What Optuna samples from, for one sweep of the command line or of `hydra.sweeper.params`."""
    value = override.value()
    if isinstance(value, IntervalSweep):
        whole = isinstance(value.start, int) and isinstance(value.end, int)
        return _numbers(value.start, value.end, log="log" in value.tags, whole=whole)
    if isinstance(value, RangeSweep) and not value.shuffle:
        points = [float(str(point)) for point in override.sweep_iterator()]
        whole = all(isinstance(end, int) for end in (value.start, value.stop, value.step))
        return _numbers(min(points), max(points), step=abs(value.step or 1), whole=whole)
    return distributions.CategoricalDistribution(
        [_number_or_text(text) for text in override.sweep_string_iterator()]
    )


def _numbers(
    low: Any, high: Any, *, whole: bool, log: bool = False, step: Any = None
) -> distributions.BaseDistribution:
    if whole:
        low, high = int(low), int(high)
    new = getattr(distributions, "IntDistribution" if whole else "FloatDistribution", None)
    try:
        if new is not None:
            made = new(low, high, log=log, step=(step or 1) if whole else step)
        elif whole:
            kind = distributions.IntLogUniformDistribution if log else None
            made = (kind or distributions.IntUniformDistribution)(low, high, step=step or 1)
        elif log:
            made = distributions.LogUniformDistribution(low, high)
        elif step is not None:
            made = distributions.DiscreteUniformDistribution(low, high, step)
        else:
            made = distributions.UniformDistribution(low, high)
    except ValueError as error:
        raise ValueError(f"no search between {low} and {high}: {error}") from error
    assert isinstance(made, distributions.BaseDistribution)
    return made


def _number_or_text(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            if str(kind(text)) == text:
                return kind(text)
        except ValueError:
            continue
    return text


def enqueue(study: optuna.Study, values: Mapping[str, Any], attributes: Mapping[str, Any]) -> None:
    """Have the next trial take these values and attributes."""
    if "user_attrs" in inspect.signature(study.enqueue_trial).parameters:
        study.enqueue_trial(dict(values), user_attrs=dict(attributes))
        return
    study.add_trial(  # as Optuna 2's enqueue_trial does, which takes no attributes
        optuna.trial.create_trial(
            state=TrialState.WAITING,
            system_attrs={"fixed_params": dict(values)},
            user_attrs=dict(attributes),
        )
    )


def silence_optuna() -> None:
    """The sweep reports its trials itself."""
    optuna.logging.set_verbosity(logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
