"""What the control plane is told on its command line."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from control_plane.cluster.membership import Patience
from control_plane.cluster.model import Instance, Node, NodeId
from runtime.addresses import address_argument
from volume.limits import SEGMENT_SIZE_BYTES


@dataclass(frozen=True, slots=True)
class Config:
    id: str
    dir: Path
    listen: str
    metrics: str
    local_cluster: Path | None
    """The folder of the local cluster whose processes it runs, if any."""
    nodes: tuple[Node, ...]
    instances: tuple[Instance, ...]
    segment_size: int
    replace_after_s: float


def parse(words: Sequence[str] | None = None) -> Config:
    parser = argparse.ArgumentParser(prog="control_plane", description=__doc__)
    parser.add_argument("--id", default="control")
    parser.add_argument("--dir", type=Path, required=True, help="folder of the metadata")
    parser.add_argument("--listen", default="127.0.0.1:5450", type=address_argument, metavar="HOST:PORT")
    parser.add_argument("--metrics", default="127.0.0.1:5470", type=address_argument, metavar="HOST:PORT")
    parser.add_argument(
        "--local-cluster", type=Path, metavar="DIR", help="run the processes of DIR/cluster.json"
    )
    parser.add_argument("--node", type=_node, action="append", default=[], metavar="ID,AZ,HOST:PORT")
    parser.add_argument("--instance", type=_instance, action="append", default=[], metavar="ID,AZ,HOST:PORT")
    parser.add_argument("--segment-size", type=int, default=SEGMENT_SIZE_BYTES, metavar="BYTES")
    parser.add_argument(
        "--replace-after",
        type=float,
        default=Patience().unreachable_s,
        metavar="SECONDS",
        help="a storage node that has not answered for so long is taken to be gone, and its segments are"
        " made anew elsewhere (default %(default)s)",
    )
    found = parser.parse_args(words)
    return Config(
        id=found.id,
        dir=found.dir,
        listen=found.listen,
        metrics=found.metrics,
        local_cluster=found.local_cluster,
        nodes=tuple(found.node),
        instances=tuple(found.instance),
        segment_size=found.segment_size,
        replace_after_s=found.replace_after,
    )


def _node(text: str) -> Node:
    id, az, address = _three(text)
    return Node(NodeId(id), az, address)


def _instance(text: str) -> Instance:
    return Instance(*_three(text))


def _three(text: str) -> tuple[str, str, str]:
    parts = text.split(",")
    if len(parts) != 3 or not all(parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not ID,AZ,HOST:PORT")
    return parts[0], parts[1], address_argument(parts[2])
