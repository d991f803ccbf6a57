"""What `sixfold status --json` prints, made from what is known and what was last seen."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from control_plane.cluster.health import (
    GONE_AFTER_S,
    Health,
    NodeHealth,
    answers,
    node_facts,
    node_health,
    process_detail,
    process_state,
)
from control_plane.cluster.model import (
    MAIN_VOLUME,
    Group,
    Instance,
    InstanceReport,
    Member,
    Node,
    NodeId,
    NodeReport,
    ProcessFacts,
    SegmentReport,
    Volume,
    Wanted,
)
from control_plane.cluster.placement import replacement_for
from volume.ids import GroupId, Lsn, VolumeId
from volume.quorum import READ_QUORUM

Report = TypeVar("Report")


@dataclass(frozen=True, slots=True)
class Seen(Generic[Report]):
    """The last answer of a process, and how long ago it came."""

    report: Report
    ago_s: float


@dataclass(frozen=True, slots=True)
class View:
    cluster: str
    volumes: Sequence[Volume]
    nodes: Sequence[Node]
    instances: Sequence[Instance]
    processes: Sequence[ProcessFacts]
    """The local cluster's processes and the control plane itself; others are only known by answering."""
    node_reports: Mapping[NodeId, Seen[NodeReport]] = field(default_factory=dict)
    instance_reports: Mapping[str, Seen[InstanceReport]] = field(default_factory=dict)
    silent_s: Mapping[NodeId, float] = field(default_factory=dict)
    """How long ago each storage node answered last, or was asked first."""
    gone_after_s: float = GONE_AFTER_S


def describe(view: View) -> dict[str, Any]:
    main = next((volume for volume in view.volumes if volume.name == MAIN_VOLUME), None)
    return {
        "cluster": view.cluster,
        "writer": main.writer or None if main else None,
        "epoch": main.epoch if main else 0,
        "vdl": _vdl(view, main),
        "volume": _volume(main) if main else None,
        "processes": _processes(view),
        "instances": [_instance(view, instance) for instance in view.instances],
        "nodes": _nodes(view, main),
        "segments": _segments(view, main) if main else [],
        "changes": _changes(view, main) if main else [],
        "without_read_quorum": _without_read_quorum(view, main) if main else [],
    }


def _volume(volume: Volume) -> dict[str, Any]:
    return {"name": volume.name, "segment_size": volume.segment_size, "groups": len(volume.groups)}


def _vdl(view: View, volume: Volume | None) -> int:
    """The writer's word while it answers; else the best that the segments were told."""
    if volume is None:
        return 0
    writer = view.instance_reports.get(volume.writer)
    if writer is not None and _is_reachable(view, volume.writer):
        return writer.report.vdl
    told = [report.known_vdl for report in _reports_of(view, volume.id).values()]
    return max([*told, writer.report.vdl if writer is not None else Lsn(0)])


def _reports_of(view: View, volume: VolumeId) -> dict[tuple[NodeId, GroupId], SegmentReport]:
    return {
        (node, report.id.group): report
        for node, seen in view.node_reports.items()
        for report in seen.report.segments
        if report.volume == volume
    }


def _processes(view: View) -> list[dict[str, Any]]:
    local = {facts.id: facts for facts in view.processes}
    known = [
        *((node.id, "storage", node.az, node.address) for node in view.nodes),
        *((instance.id, "instance", instance.az, instance.address) for instance in view.instances),
    ]
    remote = [
        _remote_process(view, str(id), role, az, address)
        for id, role, az, address in known
        if id not in local
    ]
    return [_local_process(view, facts) for facts in view.processes] + remote


def _local_process(view: View, facts: ProcessFacts) -> dict[str, Any]:
    ago = 0.0 if facts.role == "control" else _answered_ago_s(view, facts.id)
    return {
        "id": facts.id,
        "role": facts.role,
        "az": facts.az,
        "pid": facts.pid,
        "state": process_state(facts, ago),
        "address": facts.address,
        "wanted": str(facts.wanted),
        "crashes": facts.crashes,
        "last_exit": facts.last_exit,
        "detail": process_detail(facts, _own_state(view, facts.id)),
    }


def _remote_process(view: View, id: str, role: str, az: str, address: str) -> dict[str, Any]:
    return {
        "id": id,
        "role": role,
        "az": az,
        "pid": None,
        "state": "running" if answers(_answered_ago_s(view, id)) else "down",
        "address": address,
        "wanted": str(Wanted.RUNNING),
        "crashes": 0,
        "last_exit": "",
        "detail": _own_state(view, id),
    }


def _answered_ago_s(view: View, id: str) -> float | None:
    seen = view.node_reports.get(NodeId(id)) or view.instance_reports.get(id)
    return seen.ago_s if seen is not None else None


def _is_reachable(view: View, id: str) -> bool:
    """Whether it answers; of a local process that died or was paused a moment ago we know better."""
    ago = _answered_ago_s(view, id)
    facts = next((facts for facts in view.processes if facts.id == id), None)
    return answers(ago) if facts is None else process_state(facts, ago) == "running"


def _own_state(view: View, id: str) -> str:
    """What an instance says of itself, as in "read-only: 3 of 6 segments"; "ok" is not worth a word."""
    seen = view.instance_reports.get(id)
    if seen is None or not _is_reachable(view, id) or seen.report.state == "ok":
        return ""
    return seen.report.state


def _instance(view: View, instance: Instance) -> dict[str, Any]:
    known = {"id": instance.id, "az": instance.az, "address": instance.address}
    seen = view.instance_reports.get(instance.id)
    if seen is None or not _is_reachable(view, instance.id):
        return {**known, "state": "no answer"}
    report = seen.report
    return {
        **known,
        "state": report.state,
        "role": report.role,
        "epoch": report.epoch,
        "vdl": report.vdl,
        "vcl": report.vcl,
        "last_lsn": report.last_lsn,
        "sessions": report.sessions,
        "cache_bytes": report.cache_bytes,
        "sql_address": report.sql_address,
    }


def _nodes(view: View, main: Volume | None) -> list[dict[str, Any]]:
    healths = health_of_nodes(view)
    usable = {node for node, each in healths.items() if each.health in (Health.OK, Health.SLOW)}
    load = {node.id: 0 for node in view.nodes}
    for member in (member for volume in view.volumes for group in volume.groups for member in group.members):
        load[member.node] = load.get(member.node, 0) + 1

    def row(node: Node) -> dict[str, Any]:
        health, seen = healths[node.id], view.node_reports.get(node.id)
        must_go = node.draining or health.health in (Health.GONE, Health.FAILED_DISK)
        stuck = _stuck(view, main, node.id, load, usable) if main and must_go else []
        return {
            "id": node.id,
            "az": node.az,
            "address": node.address,
            "health": health.health,
            "why": health.why,
            "draining": node.draining,
            "segments": load[node.id],
            "stuck": stuck,
            "free_bytes": seen.report.free_bytes if seen else None,
            "sync_us": seen.report.sync_us if seen else None,
        }

    return [row(node) for node in view.nodes]


def _stuck(
    view: View, volume: Volume, node: NodeId, load: Mapping[NodeId, int], usable: Collection[NodeId]
) -> list[dict[str, Any]]:
    """The node's segments that no other node has room for."""
    held = [
        (group, member.slot)
        for group in volume.groups
        for member in group.voters
        if member.node == node and all(other.slot != member.slot for other in group.replacements)
    ]
    return [
        {"group": group.id, "slot": slot}
        for group, slot in held
        if replacement_for(group, slot, view.nodes, load, usable) is None
    ]


def health_of_nodes(view: View) -> dict[NodeId, NodeHealth]:
    """As the reports have it; of a local process that died a moment ago we know better."""
    reports = {node: seen.report for node, seen in view.node_reports.items()}
    silent_s = {node: seen.ago_s for node, seen in view.node_reports.items()} | dict(view.silent_s)
    writers = [seen.report for id, seen in view.instance_reports.items() if _is_reachable(view, id)]
    facts = node_facts(view.nodes, view.volumes, reports, silent_s, writers)
    healths = node_health(facts, view.gone_after_s)
    for node, each in healths.items():
        dead = each.health not in (Health.GONE, Health.UNREACHABLE) and not _is_reachable(view, node)
        if dead and facts[node].answered:
            healths[node] = NodeHealth(Health.UNREACHABLE)
    return healths


def _changes(view: View, volume: Volume) -> list[dict[str, Any]]:
    """Segments that are being replaced, and how far they are."""
    reports = _reports_of(view, volume.id)
    rows = []
    for group in volume.groups:
        for member in group.replacements:
            voter = group.voter_of(member.slot)
            report = reports.get((member.node, group.id))
            fill = report.fill if report is not None else None
            left = fill.bytes_total - fill.bytes_done if fill else 0
            rows.append(
                {
                    "group": group.id,
                    "slot": member.slot,
                    "from": voter.node if voter else None,
                    "to": member.node,
                    "reason": str(member.reason),
                    "state": _segment_state(view, member, report),
                    "source": fill.source if fill else None,
                    "bytes_done": fill.bytes_done if fill else None,
                    "bytes_total": fill.bytes_total if fill else None,
                    "bytes_per_s": fill.bytes_per_s if fill else None,
                    "seconds_left": round(left / fill.bytes_per_s) if fill and fill.bytes_per_s else None,
                }
            )
    return rows


def _without_read_quorum(view: View, volume: Volume) -> list[dict[str, Any]]:
    """Groups of which too few copies are there: what was not read before cannot be read, or recovered."""
    reports = _reports_of(view, volume.id)
    counts = ((group, _copies(view, group, reports)) for group in volume.groups)
    return [
        {"group": group.id, "copies": copies, "needed": READ_QUORUM, "loss_accepted": group.loss_accepted}
        for group, copies in counts
        if group.created_count and copies < READ_QUORUM
    ]


def _copies(view: View, group: Group, reports: Mapping[tuple[NodeId, GroupId], SegmentReport]) -> int:
    states = (_segment_state(view, member, reports.get((member.node, group.id))) for member in group.voters)
    return sum(state in ("ok", "behind") for state in states)


def _segments(view: View, volume: Volume) -> list[dict[str, Any]]:
    reports = _reports_of(view, volume.id)
    az_of = {node.id: node.az for node in view.nodes}
    rows = []
    for group in volume.groups:
        furthest = max(
            (report.scl for (_, of_group), report in reports.items() if of_group == group.id), default=Lsn(0)
        )
        for member in group.members:
            report = reports.get((member.node, group.id))
            row = {
                "group": group.id,
                "slot": member.slot,
                "node": member.node,
                "az": az_of.get(member.node, ""),
                "reason": str(member.reason) if member.reason is not None else None,
            }
            rows.append({**row, **_segment(view, member, report, furthest)})
    return rows


def _segment(view: View, member: Member, report: SegmentReport | None, furthest: Lsn) -> dict[str, Any]:
    state = _segment_state(view, member, report)
    if report is None:
        return {"scl": None, "lag": None, "state": state}
    return {
        "scl": report.scl,
        "lag": furthest - report.scl,
        "state": state,
        "known_vdl": report.known_vdl,
        "promised_epoch": report.promised_epoch,
        "hot_bytes": report.hot_bytes,
        "delta_layers": report.delta_layers,
        "image_layers": report.image_layers,
        "layer_bytes": report.layer_bytes,
    }


def _segment_state(view: View, member: Member, report: SegmentReport | None) -> str:
    if not _is_reachable(view, member.node):
        return "unreachable" if member.created else "not created"
    if report is None:
        return "missing" if member.created else "not created"
    return report.state
