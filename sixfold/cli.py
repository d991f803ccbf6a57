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

        if not isinstance(error, LocalClusterError):
            raise
        _fail(str(error))


def _fail(message: str) -> NoReturn:
    print(f"sixfold: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(1)
