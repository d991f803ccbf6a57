"""Runs other programs so that none outlives us, and says in one line what went wrong with one.

Each gets a session of its own: Ctrl-C reaches us alone, and we end what we started in our own order.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, Final, NoReturn

from bench.errors import BenchFailed

COMMAND_S_MAX: Final = 120.0
INTERRUPTS: Final = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def started(words: Sequence[str | Path]) -> Iterator["subprocess.Popen[str]"]:
    """A program that is killed when the block is left before it ended."""
    process = popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def popen(
    words: Sequence[str | Path],
    *,
    stdout: int | IO[str],
    stderr: int | IO[str],
    cwd: Path | None = None,
    user: str | None = None,
) -> "subprocess.Popen[str]":
    """Start a program, as another user if one is named. Raises BenchFailed when it is not there."""
    try:
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            text=True,
            cwd=cwd,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
            start_new_session=True,
        )
    except OSError as error:
        raise BenchFailed(f"start {words[0]}: {error.strerror}") from error


def run(
    words: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    user: str | None = None,
    timeout_s: float = COMMAND_S_MAX,
) -> str:
    """Run a program to its end; what it printed. Raises BenchFailed when it does not succeed."""
    process = popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=cwd, user=user)
    return finish(process, name_of(words), timeout_s)


def finish(process: "subprocess.Popen[str]", name: str, timeout_s: float) -> str:
    """Wait for the end of a program; what it printed. It is dead when this returns or raises."""
    try:
        out, errors = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise BenchFailed(f"{name}: no end after {timeout_s:.0f} s") from error
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    if process.returncode != 0:
        why = telling_line(errors).removeprefix(f"{name}: ")
        raise BenchFailed(f"{name}: {why or f'exit status {process.returncode}'}")
    return out


def name_of(words: Sequence[str | Path]) -> str:
    """What a human calls the command: `initdb`, `sixfold up`."""
    program = Path(words[0]).name
    return f"{words[2]} {words[3]}" if program.startswith("python") else program


def telling_line(text: str) -> str:
    """The line that says why: the first one that speaks of an error, or else the last one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower() or "fatal" in line.lower()]
    return next(iter(errors or lines[-1:]), "")


def catch_interrupts() -> None:
    """Being told to end is as good as Ctrl-C: what was started gets stopped."""
    for number in INTERRUPTS:
        signal.signal(number, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    # Once is enough: an impatient second one would hit in the middle of stopping what was started.
    for each in INTERRUPTS:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


@contextmanager
def uninterrupted() -> Iterator[None]:
    """While things are stopped after success or an error, Ctrl-C must not leave half of them running."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in INTERRUPTS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def work_folder(parent: Path) -> Iterator[Path]:
    """A folder for this run alone, gone when the block is left."""
    folder = parent / f"run-{time.strftime('%Y%m%d-%H%M%S')}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise BenchFailed(f"make {folder}: {error.strerror}") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
