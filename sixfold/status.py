"""What runs, and how far: from the control plane, or without it from what can be seen anyway."""

from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from control_plane import pids
from control_plane.cluster.model import InstanceReport, Wanted
from control_plane.local_cluster import ClusterFolder, ClusterSpec, ProcessSpec
from sixfold.control_client import ControlClient
from volume.errors import VolumeError

INSTANCE_S_MAX: Final = 0.5
GROUPS_SHOWN_MAX: Final = 20

COLOURS: Final = {"running": "green", "starting": "yellow", "paused": "yellow", "stopped": "dim"}


def status(folder: ClusterFolder) -> dict[str, Any]:
    """The object that `--json` prints. `control_plane` says where it comes from."""
    spec = folder.load()
    with ControlClient(spec.control.address) as control:
        alive = pids.search(folder, spec.control.id)
        if alive is not None and not alive.paused:
            try:
                return {**control.status(), "control_plane": "running"}
            except VolumeError:
                pass
        reports = {
            process.id: control.instance_status(process.address, INSTANCE_S_MAX)
            for process in spec.instances
            if _is_running(folder, process.id)
        }
    return from_pid_files(folder, spec, reports)


def _is_running(folder: ClusterFolder, id: str) -> bool:
    alive = pids.search(folder, id)
    return alive is not None and not alive.paused


def from_pid_files(
    folder: ClusterFolder, spec: ClusterSpec, reports: dict[str, InstanceReport | None]
) -> dict[str, Any]:
    writer = next(((id, found) for id, found in reports.items() if found and found.role == "writer"), None)
    return {
        "cluster": spec.name,
        "writer": writer[0] if writer else None,
        "epoch": writer[1].epoch if writer else None,
        "vdl": writer[1].vdl if writer else None,
        "processes": [_process(folder, process) for process in spec.processes],
        "segments": [],
        "instances": [],
        "control_plane": "down",
    }


def _process(folder: ClusterFolder, process: ProcessSpec) -> dict[str, Any]:
    alive = pids.find(folder, process.id)
    if alive is None:
        state = "killed" if process.wanted is Wanted.KILLED else "stopped"
    else:
        state = "paused" if alive.paused else "running"
    return {
        "id": process.id,
        "role": process.role,
        "az": process.az,
        "pid": alive.pid if alive else None,
        "state": state,
        "address": process.address,
        "wanted": str(process.wanted),
        "detail": "",
    }


def draw(console: Console, found: dict[str, Any]) -> None:
    parts = [f"cluster [bold]{found['cluster']}[/]", f"writer {found['writer'] or 'none'}"]
    parts += [f"{name} {found[name]}" for name in ("epoch", "vdl") if found[name] is not None]
    console.print("   ".join(parts), highlight=False)
    if all(process["pid"] is None for process in found["processes"]):
        console.print("nothing runs: `sixfold up` starts it")
    elif found["control_plane"] == "down":
        console.print("the control plane is down: this is what the pid files and the instances tell")
    console.print(_processes(found["processes"]))
    if found["segments"]:
        console.print(_segments(found["segments"]))


def _processes(processes: list[dict[str, Any]]) -> Table:
    table = Table("process", "role", "az", "pid", "state", "address", "", box=box.SIMPLE_HEAD)
    for process in processes:
        state = Text(process["state"], style=COLOURS.get(process["state"], "red"))
        pid = str(process["pid"] or "")
        table.add_row(
            process["id"],
            process["role"],
            process["az"],
            pid,
            state,
            process["address"],
            Text(process["detail"]),
        )
    return table


def _segments(segments: list[dict[str, Any]]) -> Table:
    """A row for each group, a column for each slot: who holds it and how far behind it is."""
    groups: dict[int, list[dict[str, Any]]] = {}
    for segment in segments:
        groups.setdefault(segment["group"], []).append(segment)
    table = Table("group", "SCL", *"abcdef", box=box.SIMPLE_HEAD)
    for group, members in list(groups.items())[-GROUPS_SHOWN_MAX:]:
        furthest = max((each["scl"] for each in members if each["scl"] is not None), default=0)
        table.add_row(f"pg{group}", str(furthest), *(_segment(each) for each in members))
    if len(groups) > GROUPS_SHOWN_MAX:
        table.caption = f"the last {GROUPS_SHOWN_MAX} of {len(groups)} groups; --json lists all"
    return table


def _segment(segment: dict[str, Any]) -> Text:
    text = Text(f"{segment['node']} ")
    if segment["state"] not in ("ok", "behind"):
        return text.append(segment["state"], style="red")
    if segment["lag"]:
        return text.append(f"-{segment['lag']}", style="yellow")
    return text.append("ok", style="green")
