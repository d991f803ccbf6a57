"""scrub: every storage node reads back what it has, and we tell what came of it."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from sixfold.control_client import ControlClient
from sixfold.errors import CommandFailed
from sixfold.nodes import refused_plainly
from sixfold.status import size_text
from volume.errors import VolumeError

LOOK_EVERY_S: Final = 0.25
SILENCE_S_MAX: Final = 15.0
"""A node, or the control plane, that does not answer for so long is taken for one that will not."""

Replies = dict[str, dict[str, Any]]


def scrub(nodes: Sequence[str], control_address: str, console: Console) -> bool:
    """Whether everything is sound, or is now."""
    with ControlClient(control_address) as control, _bars(console) as bars:
        with refused_plainly():
            begun = control.scrub(nodes, start=True)
        if not begun:
            raise CommandFailed("there are no storage nodes")
        replies = _until_done(begun, control, bars)
    for line in lines(replies):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(summary(replies), markup=False, highlight=False, soft_wrap=True)
    return is_sound(replies)


def _until_done(begun: Replies, control: ControlClient, bars: "_Bars") -> Replies:
    replies = dict(begun)
    heard = {node: time.monotonic() for node, reply in begun.items() if reply.get("running")}
    while heard:
        bars.show(replies)
        time.sleep(LOOK_EVERY_S)
        now = time.monotonic()
        for node, reply in _ask(control, list(heard)).items():
            if "error" in reply:
                if now - heard[node] > SILENCE_S_MAX:
                    replies[node] = reply
                    del heard[node]
                continue
            if reply["number"] < begun[node]["number"]:
                reply = {"error": "it was started again meanwhile, which has ended its scrub"}
            replies[node], heard[node] = reply, now
            if not reply.get("running"):
                del heard[node]
    bars.show(replies)
    return replies


def _ask(control: ControlClient, nodes: list[str]) -> Replies:
    try:
        return control.scrub(nodes, start=False)
    except VolumeError as error:
        return {node: {"error": f"the control plane does not answer: {error}"} for node in nodes}


def lines(replies: Replies) -> list[str]:
    """What was found, what became of it, and who did not say."""
    told = []
    for node, reply in sorted(replies.items()):
        if "error" in reply:
            told.append(f"{node}  no answer  {reply['error']}")
            continue
        told += [f"{node}  damaged  {line}" for line in reply["found"]]
        told += [f"{node}  mended   {line}" for line in reply["mended"]]
    return told


def summary(replies: Replies) -> str:
    """As in "scrubbed 12 layers, 340 frames, 1.2 GiB on 6 nodes: 1 damaged, 1 mended"."""
    done = [reply for reply in replies.values() if "error" not in reply]
    layers, frames, size = (
        sum(reply[name] for reply in done) for name in ("layers", "frames", "bytes_total")
    )
    found, mended = (sum(len(reply[name]) for reply in done) for name in ("found", "mended"))
    silent = len(replies) - len(done)
    what = f"{_count(layers, 'layer')}, {_count(frames, 'frame')}, {size_text(size)} on {_count(len(done), 'node')}"
    outcome = f"{found} damaged, {mended} mended" if found else "nothing damaged"
    return f"scrubbed {what}: {outcome}" + (f"; {_count(silent, 'node')} did not answer" if silent else "")


def is_sound(replies: Replies) -> bool:
    return all(
        "error" not in reply and len(reply["found"]) == len(reply["mended"]) for reply in replies.values()
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


class _Bars:
    """How far each node is; nothing but on a terminal."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def show(self, replies: Replies) -> None:
        if self._progress is None:
            return
        for node, reply in sorted(replies.items()):
            if node not in self._tasks:
                self._tasks[node] = self._progress.add_task(node, note="")
            task = self._tasks[node]
            if "error" in reply:
                self._progress.update(task, note=reply["error"])
                continue
            note = f"{len(reply['found'])} damaged" if reply["found"] else ""
            done = reply["bytes_total"] if not reply["running"] else reply["bytes_done"]
            self._progress.update(
                task, completed=done or 1, total=reply["bytes_total"] or 1, note=note or size_text(done)
            )


@contextmanager
def _bars(console: Console) -> Iterator[_Bars]:
    if not console.is_terminal:
        yield _Bars(None)
        return
    columns = TextColumn("{task.description:6}"), BarColumn(), TextColumn("{task.fields[note]}")
    with Progress(*columns, console=console, transient=True) as progress:
        yield _Bars(progress)
