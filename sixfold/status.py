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
from volume.quorum import COPIES

INSTANCE_S_MAX: Final = 0.5
GROUPS_SHOWN_MAX: Final = 20
CHANGES_SHOWN_MAX: Final = 20
SLOTS: Final = "abcdef"

COLOURS: Final = {
    **{"running": "green", "starting": "yellow", "paused": "yellow", "stopped": "dim"},
    **{"ok": "green", "slow": "yellow", "unknown": "dim", "draining": "cyan", "drained": "dim"},
}


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
        "nodes": [],
        "changes": [],
        "without_read_quorum": [],
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
    for group in found["without_read_quorum"]:
        console.print(Text(without_read_quorum(group), style="red"), soft_wrap=True)
    console.print(_processes(found["processes"], found["nodes"]))
    if found["segments"]:
        console.print(_segments(found["segments"]))
    if found["changes"]:
        console.print(_changes(found["changes"]))


def without_read_quorum(group: dict[str, Any]) -> str:
    name = f"pg{group['group']}"
    copies = f"{group['copies']} of its {COPIES} copies"
    line = f"{name} has no read quorum: {copies} {'is' if group['copies'] == 1 else 'are'} there,"
    line += f" {group['needed']} are needed."
    if group["loss_accepted"]:
        return f"{line} Its loss is accepted: it is rebuilt from what is left."
    return f"{line} If the others never come back: `sixfold accept-loss {name}`"


def _processes(processes: list[dict[str, Any]], nodes: list[dict[str, Any]]) -> Table:
    table = Table("process", "role", "az", "pid", "state", "health", "address", "", box=box.SIMPLE_HEAD)
    node_of = {node["id"]: node for node in nodes}
    for process in processes:
        node = node_of.get(process["id"], {"health": "", "why": "", "stuck": []})
        table.add_row(
            process["id"],
            process["role"],
            process["az"],
            str(process["pid"] or ""),
            Text(process["state"], style=COLOURS.get(process["state"], "red")),
            Text(node["health"], style=COLOURS.get(node["health"], "red")),
            process["address"],
            Text("; ".join(each for each in (process["detail"], node["why"], _stuck(node)) if each)),
        )
    return table


def _stuck(node: dict[str, Any]) -> str:
    """Segments of it should go, and no other node has room."""
    count = len(node["stuck"])
    return f"no room elsewhere for {count} of its segments" if count else ""


def _segments(segments: list[dict[str, Any]]) -> Table:
    """A row for each group, a column for each slot: who holds it and how far behind it is."""
    groups: dict[int, list[dict[str, Any]]] = {}
    for segment in segments:
        groups.setdefault(segment["group"], []).append(segment)
    table = Table("group", "SCL", *SLOTS, box=box.SIMPLE_HEAD)
    for group, members in list(groups.items())[-GROUPS_SHOWN_MAX:]:
        furthest = max((each["scl"] for each in members if each["scl"] is not None), default=0)
        table.add_row(f"pg{group}", str(furthest), *(_slot(members, slot) for slot in range(COPIES)))
    if len(groups) > GROUPS_SHOWN_MAX:
        table.caption = f"the last {GROUPS_SHOWN_MAX} of {len(groups)} groups; --json lists all"
    return table


def _slot(members: list[dict[str, Any]], slot: int) -> Text:
    """Who holds it and, in a line beneath, who is being filled to hold it."""
    here = [each for each in members if each["slot"] == slot]
    return Text("\n").join(_segment(each) for each in sorted(here, key=lambda each: bool(each["reason"])))


def _segment(segment: dict[str, Any]) -> Text:
    text = Text(f"{segment['node']} ")
    if segment["state"].startswith("filling"):
        return text.append(segment["state"], style="yellow")
    if segment["state"] not in ("ok", "behind"):
        return text.append(segment["state"], style="red")
    if segment["lag"]:
        return text.append(f"-{segment['lag']}", style="yellow")
    return text.append("ok", style="green")


def _changes(changes: list[dict[str, Any]]) -> Table:
    """Segments that are being replaced, and how far their layers have come."""
    headings = ("change", "from", "to", "reason", "source", "done", "rate", "left")
    table = Table(*headings, box=box.SIMPLE_HEAD)
    for each in changes[:CHANGES_SHOWN_MAX]:
        table.add_row(
            f"pg{each['group']}/{SLOTS[each['slot']]}",
            each["from"] or "-",
            each["to"],
            each["reason"],
            each["source"] or "-",
            copied(each),
            f"{size_text(each['bytes_per_s'])}/s" if each["bytes_per_s"] else "-",
            f"{each['seconds_left']} s" if each["seconds_left"] is not None else "-",
        )
    if len(changes) > CHANGES_SHOWN_MAX:
        table.caption = f"the first {CHANGES_SHOWN_MAX} of {len(changes)} changes; --json lists all"
    return table


def copied(change: dict[str, Any]) -> str:
    """How much of its layers a segment that is being filled has; or what it is doing instead."""
    if change["bytes_total"] is None:
        return str(change["state"])
    return f"{size_text(change['bytes_done'])} of {size_text(change['bytes_total'])}"


def size_text(size: int) -> str:
    """As a human says it: 512 B, 1.2 GiB."""
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    power = min(max(size, 1).bit_length() - 1, 10 * len(units) - 1) // 10
    return f"{size} B" if power == 0 else f"{size / (1 << 10 * power):.1f} {units[power]}"
