"""What a run does on a signal to stop: it saves its state and exits, within seconds."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

from stockformer.runs.console import is_interactive
from stockformer.runs.folder import ProcessLost, RunDir
from stockformer.runs.logs import is_main_process

log = logging.getLogger(__name__)

# Ctrl-C, the scheduler's end, its warnings before that, and a terminal that is closed.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
END = b"\0"  # written by the main thread in place of a signal's number: the end


@contextmanager
def open_run(folder: Path, *, resume: bool) -> Iterator[RunDir]:
    """The run in `folder`, new or resumed; of several processes the first owns it, others read."""
    if not is_main_process():
        run = RunDir.follow(folder) if resume else RunDir(folder)
        run.resumed = resume
        yield run
        return
    with (RunDir.reopen if resume else RunDir.claim)(folder) as run, Interruption(run):
        yield run


class Interruption:
    """Within this context a signal ends the process with 128 + its number, the run's state kept.

    A thread of its own receives the signal through a pipe that the C handler writes to, so it need
    not wait for the main thread, which may be in a backward pass of half a minute. The thread calls
    `run.save_on_interrupt` and exits; a second signal exits at once.
    """

    def __init__(self, run: RunDir) -> None:
        self.run = run

    def __enter__(self) -> Self:
        self.active = threading.current_thread() is threading.main_thread()
        if self.active:  # elsewhere Python takes no signals; a launcher's threads have their own
            self.listener, self.pipe = os.pipe()
            os.set_blocking(self.pipe, False)
            self.former_pipe = signal.set_wakeup_fd(self.pipe, warn_on_full_buffer=False)
            self.former = {number: signal.signal(number, _ignore) for number in _handled()}
            os.register_at_fork(after_in_child=self._forget)
            self.thread = threading.Thread(target=self._listen, daemon=True)
            self.thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self.active:
            return
        if isinstance(error, ProcessLost):  # at once: torchrun is about to kill this process too
            self._end(str(error), 1)
        self._wait_for_thread()
        self.active = False
        # The hook of forks keeps this object for ever: not the run's model and data with it.
        self.run = RunDir(self.run.path)
        for number, handler in self.former.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self.former_pipe)
        os.close(self.pipe)
        os.set_blocking(self.listener, False)
        with contextlib.suppress(BlockingIOError):  # no signal came too late to be handled
            while late := os.read(self.listener, 1):
                if late[0] in SIGNALS:
                    signal.raise_signal(late[0])
        os.close(self.listener)

    def _wait_for_thread(self) -> None:
        """For ever if a signal came: then that ends the process, not an error that follows."""
        os.write(self.pipe, END)
        of_children = signal.getsignal(signal.SIGCHLD)
        while self.thread.is_alive():
            # torch raises one here for each data loader's process that the same signal ended.
            with contextlib.suppress(RuntimeError):
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                self.thread.join()
        signal.signal(signal.SIGCHLD, of_children)

    def _listen(self) -> None:
        exiting = False
        while (received := os.read(self.listener, 1)) != END or exiting:
            if received[0] not in SIGNALS:  # others that Python handles, e.g. a child's end
                continue
            if exiting:
                os._exit(128 + received[0])
            exiting = True
            threading.Thread(target=self._exit, args=received, daemon=True).start()

    def _exit(self, number: int) -> None:
        self._end(signal.Signals(number).name, 128 + number)

    def _end(self, name: str, status: int) -> NoReturn:
        """Save the run's state and exit; of several calls one does."""
        try:
            try:
                kept = self.run.save_on_interrupt()
            except (OSError, ValueError, RuntimeError) as error:
                kept = f", but its state could not be kept: {error}"
            self.run.end("interrupted", f"{name}{kept}")
            log.warning("%s: stopped%s", name, kept)
        finally:
            for loader in multiprocessing.active_children():
                loader.kill()  # left alone it would print that its parent has gone
            if is_interactive():
                sys.stdout.write("\x1b[?25h")  # a progress bar hides the cursor
            sys.stdout.flush()
            os._exit(status)

    def _forget(self) -> None:
        """In a data loader's process: signals must not reach the parent's pipe."""
        if self.active:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
            self.active = False


def _handled() -> list[signal.Signals]:
    """SIGNALS, but for a SIGHUP that is ignored: nohup has a run outlive its terminal."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [number for number in SIGNALS if not (ignored and number is signal.SIGHUP)]


def _ignore(number: int, frame: object) -> None:
    """The pipe has it; Python must only not do what it does by default."""
