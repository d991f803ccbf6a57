"""The commands: parse what was typed, call what does it, print what came of it.

Exit status: 0 done, 1 failed with one line on stderr, 2 wrong usage. What a command needs is
imported when it runs, so that `sixfold --help` does not wait for gRPC.
"""

import json
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Final, NoReturn

import typer

from sixfold.errors import CommandFailed
from sixfold.layout import BASE_PORT, BASE_PORT_MAX, parse_size

if TYPE_CHECKING:
    from rich.console import Console

    from control_plane.cluster.model import Wanted
    from control_plane.local_cluster import ClusterFolder

DEFAULT_DIR: Final = Path(".sixfold")
PAGE_BYTES: Final = 4096
SEGMENT_BYTES_MIN: Final = 64 * 1024
CACHE_BYTES_MIN: Final = 1024 * 1024
INTERRUPTED: Final = 130
"""The exit status of a command that Ctrl-C has ended, by custom."""

app = typer.Typer(
    help="Sixfold: a relational database whose log is the database, on six copies over three zones.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _size(text: str, at_least: int) -> int:
    try:
        size = parse_size(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if size < at_least or size % PAGE_BYTES:
        raise typer.BadParameter(f"{text}: at least {at_least} bytes, in whole pages of {PAGE_BYTES}")
    return size


def _segment_size(text: str) -> int:
    return _size(text, SEGMENT_BYTES_MIN)


def _cache_size(text: str) -> int:
    return _size(text, CACHE_BYTES_MIN)


Dir = Annotated[
    Path, typer.Option("--dir", metavar="DIR", envvar="SIXFOLD_DIR", help="The cluster's folder.")
]
Control = Annotated[
    str | None,
    typer.Option(
        "--control", metavar="HOST:PORT", help="The control plane of a cluster that is not a local one."
    ),
]
Target = Annotated[
    str, typer.Argument(metavar="NODE_OR_AZ", help="A process such as s3, or a zone such as az2.")
]


@app.command()
def up(
    dir: Dir = DEFAULT_DIR,
    readers: Annotated[int, typer.Option(min=0, max=15, help="How many readers.")] = 0,
    detach: Annotated[bool, typer.Option("--detach", help="Return once it runs.")] = False,
    segment_size: Annotated[
        int | None,
        typer.Option(parser=_segment_size, metavar="SIZE", help="Of a protection group; 10GiB at first."),
    ] = None,
    cache_size: Annotated[
        int | None, typer.Option(parser=_cache_size, metavar="SIZE", help="Buffer pool of the instance.")
    ] = None,
    base_port: Annotated[
        int | None,
        typer.Option(
            min=1024, max=BASE_PORT_MAX, help=f"SQL port; the others follow it. {BASE_PORT} at first."
        ),
    ] = None,
) -> None:
    """Start a local cluster: six storage nodes in three zones, a control plane and a writer."""
    if readers:
        raise CommandFailed("readers are not there yet: leave out --readers")
    from sixfold import up as starting

    signal.signal(signal.SIGTERM, _interrupt)
    folder, console = _folder(dir), _console()
    settings = starting.Settings(segment_size, cache_size, base_port)
    started = starting.up(folder, settings, console)
    spec = folder.load()
    console.print("Sixfold runs." if started else f"Sixfold runs already, in {folder.path}.", highlight=False)
    for process in spec.processes:
        if process.wanted != "running":
            console.print(f"{process.id} is {process.wanted}: `sixfold start {process.id}`", highlight=False)
    for line in starting.what_next(spec, folder, DEFAULT_DIR):
        typer.echo(line)
    if started and not detach:
        _stay_until_stopped(folder, console)


def _stay_until_stopped(folder: "ClusterFolder", console: "Console") -> None:
    from sixfold.stop import stop
    from sixfold.up import stay

    console.print("Ctrl-C stops it; --detach would leave it running.", highlight=False)
    try:
        stay(folder, folder.load(), console, typer.echo)
    except KeyboardInterrupt:
        console.print("Stopping.", highlight=False)
        stop(folder, folder.load())
    console.print("Stopped.", highlight=False)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


@app.command()
def down(dir: Dir = DEFAULT_DIR) -> None:
    """Stop the local cluster. Its data stay."""
    from sixfold.stop import running, stop

    folder = _folder(dir)
    spec = folder.load()
    alive = running(folder, spec)
    if not alive:
        typer.echo(f"The cluster in {folder.path} is not running.")
        return
    stop(folder, spec)
    typer.echo(f"Stopped {', '.join(alive)}.")


@app.command()
def status(
    dir: Dir = DEFAULT_DIR, as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False
) -> None:
    """Show processes, zones, segments, epoch and VDL."""
    from sixfold.status import draw
    from sixfold.status import status as look

    found = look(_folder(dir))
    if as_json:
        typer.echo(json.dumps(found))
    else:
        draw(_console(), found)


@app.command()
def sql(
    statement: Annotated[str | None, typer.Argument(metavar="SQL", help="Without it: a prompt.")] = None,
    dir: Dir = DEFAULT_DIR,
    instance: Annotated[str | None, typer.Option(metavar="ID", help="Ask this instance.")] = None,
    reader: Annotated[bool, typer.Option("--reader", help="Ask a reader.")] = False,
    at: Annotated[str | None, typer.Option(metavar="TIME", help="Read as of then.")] = None,
) -> None:
    """Run a statement, a script from standard input, or a prompt with history."""
    if reader:
        raise CommandFailed("readers are not there yet: leave out --reader")
    if at is not None:
        raise CommandFailed("reading at a past time is not there yet: leave out --at")
    from sixfold.sql import SqlFailed, prompt, run_one, run_script

    address = _sql_address(_folder(dir), instance)
    try:
        if statement is not None:
            run_one(address, statement)
        elif sys.stdin.isatty():
            prompt(address)
        else:
            run_script(address, sys.stdin.read())
    except SqlFailed as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error


def _sql_address(folder: "ClusterFolder", instance: str | None) -> str:
    from sixfold.layout import HOST

    if instance is None and not folder.exists():
        return f"{HOST}:{BASE_PORT}"
    for process in folder.load().instances:
        if instance in (None, process.id):
            return process.sql
    raise CommandFailed(f"no instance is called {instance!r}")


@app.command()
def kill(target: Target, dir: Dir = DEFAULT_DIR) -> None:
    """End processes with SIGKILL; they stay dead until `start`."""
    from control_plane.cluster.model import Wanted

    _want(dir, target, Wanted.KILLED, "killed")


@app.command()
def pause(target: Target, dir: Dir = DEFAULT_DIR) -> None:
    """Stop processes in their tracks with SIGSTOP."""
    from control_plane.cluster.model import Wanted

    _want(dir, target, Wanted.PAUSED, "paused")


@app.command()
def resume(target: Target, dir: Dir = DEFAULT_DIR) -> None:
    """Let paused processes go on."""
    from control_plane.cluster.model import Wanted

    _want(dir, target, Wanted.RUNNING, "running")


@app.command()
def start(target: Target, dir: Dir = DEFAULT_DIR) -> None:
    """Start killed processes again."""
    from control_plane.cluster.model import Wanted

    _want(dir, target, Wanted.RUNNING, "started")


def _want(dir: Path, target: str, wanted: "Wanted", done: str) -> None:
    from sixfold.faults import set_wanted

    changed = set_wanted(_folder(dir), target, wanted, lambda line: typer.echo(line, err=True))
    for id in changed:
        typer.echo(f"{id} {done}")


@app.command("add-node")
def add_node(
    dir: Dir = DEFAULT_DIR,
    az: Annotated[
        str | None, typer.Option("--az", metavar="AZ", help="Its zone; without it the one with fewest nodes.")
    ] = None,
    id: Annotated[str | None, typer.Option("--id", metavar="ID", help="Not local: its name.")] = None,
    address: Annotated[
        str | None, typer.Option("--address", metavar="HOST:PORT", help="Not local: where it listens.")
    ] = None,
    control: Control = None,
) -> None:
    """Let one more storage node join.

    In a local cluster one is started: the next name, on free ports. Segments
    are placed on it from then on: when the volume grows, when another node
    fails or is drained, and when one in its zone holds two more than it does.

    To a cluster that is not local a node that runs already is added, with
    --id, --az, --address and --control.
    """
    from sixfold import nodes

    if (id, address, control) == (None, None, None):
        nodes.add_local(_folder(dir), az, _console())
    elif id and az and address and control:
        nodes.add_elsewhere(id, az, address, control, _console())
    else:
        raise typer.BadParameter("a node of another machine needs --id, --az, --address and --control")


@app.command()
def drain(
    node: Annotated[str, typer.Argument(metavar="NODE", help="A storage node such as s3.")],
    dir: Dir = DEFAULT_DIR,
    undo: Annotated[bool, typer.Option("--undo", help="Let it take segments again.")] = False,
    control: Control = None,
) -> None:
    """Move every segment off a storage node, while everything goes on.

    Returns when none is left there; `sixfold remove-node` lets the node go
    then. Ctrl-C leaves the moving going on. Exit status 1: no other node has room.
    """
    from sixfold import nodes

    console, where = _console(), _control_address(dir, control)
    if undo:
        nodes.undo_drain(node, where, console)
        return
    try:
        nodes.drain(node, where, console)
    except KeyboardInterrupt:
        console.print(f"It goes on; `sixfold drain {node} --undo` ends it.", highlight=False)
        raise typer.Exit(INTERRUPTED) from None


@app.command("remove-node")
def remove_node(
    node: Annotated[str, typer.Argument(metavar="NODE", help="A storage node such as s7.")],
    dir: Dir = DEFAULT_DIR,
    control: Control = None,
) -> None:
    """Forget a storage node that holds no segment.

    `sixfold drain` makes it hold none; one that is gone for good holds none
    once others have replaced it. In a local cluster its process is ended and
    its folder deleted; elsewhere, end it yourself.
    """
    from sixfold import nodes

    nodes.remove(node, _control_address(dir, control), _console())


@app.command()
def scrub(
    dir: Dir = DEFAULT_DIR,
    node: Annotated[
        list[str] | None, typer.Option("--node", metavar="ID", help="Only this node; may be repeated.")
    ] = None,
    control: Control = None,
) -> None:
    """Read back what storage nodes have on disk, and mend what is damaged.

    Each block's checksum is compared, beside the work for clients. Damaged
    layers are taken from a peer again, damaged log and manifests are written
    anew from memory. Every node also does this by itself, once a day.

    Exit status 1: something is damaged and could not be mended, or a node
    did not answer. Ctrl-C leaves the scrub going on.
    """
    from sixfold.scrub import scrub as run

    console = _console()
    try:
        sound = run(node or [], _control_address(dir, control), console)
    except KeyboardInterrupt:
        console.print("The nodes go on with it; `sixfold scrub` shows how far they are.", highlight=False)
        raise typer.Exit(INTERRUPTED) from None
    if not sound:
        raise typer.Exit(1)


@app.command("accept-loss")
def accept_loss(
    group: Annotated[str, typer.Argument(metavar="GROUP", help="A protection group such as pg3.")],
    dir: Dir = DEFAULT_DIR,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    control: Control = None,
) -> None:
    """Rebuild a group from fewer copies than a quorum, and lose the rest.

    Only for a group that has lost its read quorum for good: four of its six
    copies, or more, will never come back. As long as one of them still can,
    bring it back instead.

    What is lost: whatever was committed and is on none of the copies that
    are left. Commits that were acknowledged may be missing, tables that lie
    in other groups as well may not fit together any more, and the lost
    copies are refused if they come back after all. There is no way back.
    """
    from sixfold.loss import accept_loss as accept
    from sixfold.loss import group_of

    ask = None if yes else _ask
    accept(group_of(group), _control_address(dir, control), typer.echo, ask)


def _ask(question: str) -> str:
    answer: str = typer.prompt(question, default="", show_default=False)
    return answer.strip()


def _control_address(dir: Path, control: str | None) -> str:
    return control if control is not None else _folder(dir).load().control.address


def _folder(dir: Path) -> "ClusterFolder":
    from control_plane.local_cluster import ClusterFolder

    return ClusterFolder(dir)


def _console() -> "Console":
    from rich.console import Console

    console = Console()
    # A pipe has no width: 80 columns would cut addresses that a script looks for.
    return console if console.is_terminal else Console(width=160)


def main() -> None:
    try:
        app()
    except CommandFailed as error:
        _fail(str(error))
    except Exception as error:
        from control_plane.local_cluster import LocalClusterError

        if not isinstance(error, LocalClusterError | OSError):
            raise
        _fail(str(error))


def _fail(message: str) -> NoReturn:
    print(f"sixfold: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(1)
