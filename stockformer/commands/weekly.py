"""`python -m stockformer.weekly`: a week of training, and the decision on the model in use."""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from rich.text import Text

from stockformer.commands.child_process import run_program, run_python
from stockformer.commands.command import (
    DEFAULT_EXPERIMENT,
    as_hydra_reads,
    needs_default_experiment,
)
from stockformer.commands.plain_command import Words
from stockformer.config.overrides import check_command_line, without_hydra
from stockformer.config.quoting import as_path, pasteable, quoted
from stockformer.config.trust import trusted
from stockformer.evaluation.paired_test import Level
from stockformer.runs.challenge import Champion, Week, challenge, plan_week
from stockformer.runs.champion import (
    FIRST,
    KEPT,
    PROMOTED,
    ChampionFolder,
    Decision,
    changes,
)
from stockformer.runs.console import program
from stockformer.runs.folder import RunDir
from stockformer.runs.logs import start_log
from stockformer.runs.reopen import FIXED
from stockformer.sweeps.jobs import require_same_settings

log = logging.getLogger(__name__)

SET_BY_THE_LOOP = {"split", "resume", "init_from", "search", "hydra"}
"""Groups and keys that the loop sets itself, or that make no single run."""
DATA_KEYS = ("dataset", "paths", "config_dir")
DOWNLOAD = "stockformer.data.sources.download"


@dataclass(frozen=True)
class Rules:
    """How long the parts of a week are, in days, and when a challenger is promoted."""

    test_days: int = 60
    validation_days: int = 20
    level: Level = field(default_factory=Level)

    @classmethod
    def of(cls, words: Words) -> Self:
        """Raises ValueError for a value that is no such number."""
        default = cls()
        level = Level(
            alpha=_number(words, "alpha", default.level.alpha),
            min_days=_days(words, "min_days", default.level.min_days),
        )
        rules = cls(
            test_days=_days(words, "test_days", default.test_days),
            validation_days=_days(words, "validation_days", default.validation_days),
            level=level,
        )
        if rules.test_days < level.min_days:
            raise ValueError(
                f"test_days={rules.test_days}: must be at least min_days={level.min_days}"
            )
        return rules


def weekly(words: Words, overrides: Sequence[str]) -> Iterator[Text]:
    """Yields what to print. Raises ValueError if a step fails; the champion is then unchanged."""
    start_log(only_warnings=True)
    if "champion" not in words:
        raise ValueError("champion=FOLDER: missing; it names where runs and decisions are kept")
    rules, settings = Rules.of(words), run_settings(overrides)
    download = _download_words(words)
    folder = ChampionFolder(as_path(words["champion"]).absolute())
    with folder.locked():
        yield from WeeklyLoop(folder, rules, settings).run(download)


class WeeklyLoop:
    """One week of one folder."""

    def __init__(self, folder: ChampionFolder, rules: Rules, settings: Sequence[str]) -> None:
        self.folder, self.rules, self.settings = folder, rules, list(settings)
        self.history = folder.history()

    def run(self, download: Sequence[str]) -> Iterator[Text]:
        """All steps; a download only if there are words for it. Raises ValueError naming the step
        that fails."""
        if download:
            yield _heading("download")
            self.require_done(run_python("-m", DOWNLOAD, *download), "the download")
        config = without_hydra(check_command_line(as_hydra_reads(self.settings), multirun=False))
        rules = self.rules
        champion = self.champion()
        former = self.champions()[1:]
        week = plan_week(config, champion, former, rules.test_days, rules.validation_days)
        if (decided := self.decided(week)) is not None:
            yield Text(f"the week of {week.date} is decided already")
        elif champion is not None and week.days < rules.level.min_days:
            yield Text(
                f"week of {week.date}: nothing is trained. Only {week.days} days are later than "
                f"{champion.last_day_used()}, the last that the champion was fitted or selected "
                f"by; a test needs min_days={rules.level.min_days}"
            )
        else:
            yield from self.train(week)
            decided = self.decide(champion, week)
            self.folder.add(decided)
            self.history.append(decided)
        yield from self.closing(decided)

    def champions(self) -> list[Path]:
        """The champion and the former ones, the newest first."""
        return [self.folder.path / each.run for each in changes(self.history)]

    def champion(self) -> Champion | None:
        """The champion; None before the first week's end."""
        if not (changed := changes(self.history)):
            return None
        last = changed[0]
        selected_until = last.date if last.decision == PROMOTED else ""
        return Champion(self.folder.path / last.run, selected_until)

    def decided(self, week: Week) -> Decision | None:
        """The decision of that week, if there is one. Raises ValueError for older data."""
        if not self.history:
            self.folder.require_first_week(week.date)
            return None
        last = self.history[-1]
        if week.date < last.date:
            raise ValueError(
                f"the data end on {week.date}, before the last week that was decided, {last.date}: "
                "are they an older copy?"
            )
        return last if week.date == last.date else None

    def train(self, week: Week) -> Iterator[Text]:
        """Validate, then train the week's run or what is missing of it."""
        run = RunDir(self.folder.run_of(week.date))
        words = [*self.settings, *week.split, *_trusted()]
        if week.warm_start is not None:
            words.append(f"init_from={quoted(str(week.warm_start))}")
        begun = run.status_file.exists()
        if begun:
            self.require_free(run, words)
            if run.status()["state"] == "finished":
                yield Text(f"{run.path} is trained already")
                return
        yield _heading(f"week of {week.date}: validate")
        self.require_done(run_program("validate", words), f"{program('validate')}")
        if begun and run.begun():
            yield _heading(f"continue {run.path}")
            train = [f"resume={quoted(str(run.path))}", *_trusted()]
        else:
            start = week.warm_start or f"random weights ({week.without_warm_start})"
            yield _heading(f"train {run.path}, from {start}")
            train = [*words, f"hydra.run.dir={quoted(str(run.path))}"]
        self.require_done(run_program("train", train), f"{program('train')}")

    def require_free(self, run: RunDir, words: Sequence[str]) -> None:
        """Raises ValueError if the week's run is being trained, or has other settings."""
        if run.in_use():
            raise ValueError(
                f"{run.path}: a process that is still running trains it. Wait for it, or stop it"
            )
        try:
            require_same_settings(run, as_hydra_reads(words))
        except ValueError as error:
            raise ValueError(
                f"{error}; use the settings it was begun with, or delete it to train again"
            ) from error

    def decide(self, champion: Champion | None, week: Week) -> Decision:
        """The decision on the week's run, which is trained."""
        run = self.folder.run_of(week.date)
        if champion is None:
            decision, reason, figures = FIRST, "there was no champion", {}
        else:
            data = data_words(self.settings)
            test = challenge(champion, run, week, data, self.rules.level)
            decision = PROMOTED if test.better else KEPT
            reason = f"{test.obstacle or 'better'}: {test.sentence()}"
            figures = test.figures()
        relative = str(run.relative_to(self.folder.path))
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        return Decision(week.date, relative, decision, reason, now, figures)

    def closing(self, decision: Decision | None) -> Iterator[Text]:
        """The decision, and the command for the coming day."""
        if decision is not None:
            what = {
                FIRST: f"{decision.run} is the first champion",
                PROMOTED: f"{decision.run} is promoted",
                KEPT: f"{decision.run} is not promoted",
            }[decision.decision]
            yield Text(f"week of {decision.date}: {what}: {decision.reason}", style="bold")
        champion = self.champions()[0]
        yield Text(f"champion: {champion}")
        others = shlex.join([*data_words(self.settings), *_trusted()])
        yield Text(f"{program('predict')} {pasteable('run', champion)} {others}".rstrip())

    def require_done(self, status: int, what: str) -> None:
        """Raises ValueError if a step has failed; its own message is above."""
        if status:
            champions = self.champions()
            unchanged = f"the champion is still {champions[0]}" if champions else "no champion yet"
            raise ValueError(
                f"{what} failed with status {status}, see above; {unchanged}. Run the same command "
                "again when that is fixed"
            )


def run_settings(overrides: Sequence[str]) -> list[str]:
    """The settings of each run. Raises ValueError for those that the loop itself chooses."""
    for word in overrides:
        key = word.lstrip("+~").partition("=")[0]
        if key.replace("/", ".").partition(".")[0] in SET_BY_THE_LOOP:
            raise ValueError(
                f"{word}: the weekly loop sets {', '.join(sorted(SET_BY_THE_LOOP))} itself; see "
                "test_days= and validation_days="
            )
    default = [DEFAULT_EXPERIMENT] if needs_default_experiment(overrides) else []
    return [*default, *overrides]


def data_words(settings: Sequence[str]) -> list[str]:
    """Those of the settings that name data, for a run that is trained already."""
    named = []
    for word in settings:
        key = word.lstrip("+").partition("=")[0]
        if key.partition(".")[0] in DATA_KEYS and key not in FIXED:
            named.append(word)
    return named


def _heading(text: str) -> Text:
    return Text(text, style="bold")


def _trusted() -> list[str]:
    names = sorted(trusted())
    return [f"trust=[{','.join(names)}]"] if names else []


def _download_words(words: Words) -> list[str]:
    try:
        return shlex.split(words.get("download", ""))
    except ValueError as error:
        raise ValueError(f"download={words['download']}: {error}") from error


def _days(words: Words, name: str, default: int) -> int:
    text = words.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and 0 < int(text) < 10_000):
        raise ValueError(f"{name}={text}: must be a whole number of days of at least 1")
    return int(text)


def _number(words: Words, name: str, default: float) -> float:
    text = words.get(name, str(default))
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"{name}={text}: not a number") from error
