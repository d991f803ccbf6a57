"""The house rules that a machine can check: who may import whom, and which code performs no I/O."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

_ROOT: Final = Path(__file__).parents[2]
_PACKAGES: Final = ("volume", "runtime", "storage_node", "db_instance", "control_plane", "sixfold")
_SERVICES: Final = {"storage_node", "db_instance", "control_plane"}

PURE: Final = (
    "volume/",
    "storage_node/segment/",
    "control_plane/cluster/",
    "db_instance/dialect/",
    "db_instance/engine/page_cache.py",
    "db_instance/engine/mini_transaction.py",
    "db_instance/volume_driver/batcher.py",
    "db_instance/volume_driver/durable_frontier.py",
    "db_instance/volume_driver/lease.py",
    "db_instance/volume_driver/read_plan.py",
    "db_instance/wire/postgres/backend.py",
    "db_instance/wire/postgres/frontend.py",
    "db_instance/wire/postgres/messages.py",
)
IO_MODULES: Final = {
    *("asyncio", "threading", "concurrent", "multiprocessing", "subprocess", "signal", "select", "selectors"),
    *("socket", "ssl", "http", "urllib", "grpc", "uvloop", "psycopg"),
    *("os", "io", "pathlib", "shutil", "tempfile", "sqlite3", "apsw", "structlog", "logging"),
    *("time", "random", "secrets"),
    *("proto", "google", "greenlet", "runtime"),
}
"""google_crc32c and lz4 are arithmetic, and so is sqlglot."""

PROTO_EDGES: Final = {
    "storage_node/server.py",
    "storage_node/gossip.py",
    "storage_node/copying.py",
    "storage_node/membership_messages.py",
    "db_instance/server.py",
    "db_instance/volume_driver/node_client.py",
    "db_instance/volume_driver/segment_calls.py",
    "db_instance/volume_driver/page_reader.py",
    "db_instance/volume_driver/control_client.py",
    "control_plane/server.py",
    "control_plane/agents.py",
    "sixfold/control_client.py",
    "runtime/grpc_transport.py",
}
"""Where messages of proto/ are translated."""

MAY_IMPORT: Final = {
    "volume": set[str](),
    "runtime": {"volume", "proto"},
    "storage_node": {"volume", "runtime", "proto"},
    "db_instance": {"volume", "runtime", "proto"},
    "control_plane": {"volume", "runtime", "proto"},
    "sixfold": {"volume", "runtime", "proto", "control_plane"},
}
"""The command line asks the control plane, and borrows its account of local processes."""

DOWNWARD: Final = {
    "storage_node": (
        "segment",
        "layers",
        "hot_log",
        "segment_store",
        "membership_messages",
        "copying",
        "gossip",
        "scrub",
        "node",
        "server",
        "__main__",
    ),
    "db_instance": (
        "dialect",
        "volume_driver",
        "engine",
        "wire.postgres.messages",
        "wire.postgres.frontend",
        "wire.postgres.backend",
        "session",
        "wire",
        "instance",
        "server",
        "__main__",
    ),
}
"""Within a service each part imports only itself and what stands before it. The wire's codecs are words that
sessions use; its sockets use sessions."""

EXCEPTIONS: Final = {
    ("storage_node/gossip.py", "node"): "a type only: gossip belongs to the node that makes it",
    ("storage_node/scrub.py", "node"): "a type only: so does the scrub",
}


def _files() -> list[str]:
    found = (path for package in _PACKAGES for path in (_ROOT / package).rglob("*.py"))
    return sorted(str(path.relative_to(_ROOT)) for path in found)


def _imports(file: str) -> Iterator[tuple[int, str]]:
    """Line and full name of whatever the file imports, wherever in it."""
    for node in ast.walk(ast.parse((_ROOT / file).read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: name the package, not the dots"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


_FILES: Final = _files()


@pytest.mark.parametrize("file", [file for file in _FILES if file.startswith(PURE)])
def test_pure_code_performs_no_io(file: str) -> None:
    for line, name in _imports(file):
        assert name.split(".")[0] not in IO_MODULES, (
            f"{file}:{line} imports {name}: pure code is told what happened and answers what to do; "
            "do the I/O in the file that calls it, or pass a value in"
        )
    for node in ast.walk(ast.parse((_ROOT / file).read_text())):
        assert not isinstance(node, ast.AsyncFunctionDef | ast.Await), (
            f"{file}:{node.lineno} is async: let the caller wait, and tell this code what came of it"
        )
        assert not (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open"
        ), f"{file}:{node.lineno} opens a file: pass its content in"


def test_what_is_called_pure_is_there() -> None:
    for place in PURE:
        assert (_ROOT / place).exists(), f"{place} has moved: say in PURE where to"
    for file in PROTO_EDGES:
        assert any("proto." in name or name == "proto" for _, name in _imports(file)), (
            f"{file} no longer needs proto: take it out of PROTO_EDGES"
        )


@pytest.mark.parametrize("file", _FILES)
def test_services_meet_only_in_proto(file: str) -> None:
    package = file.split("/")[0]
    for line, name in _imports(file):
        other = name.split(".")[0]
        if other == package or other not in {*_PACKAGES, "proto"}:
            continue
        assert other in MAY_IMPORT[package], (
            f"{file}:{line} imports {name}: {package} may import {sorted(MAY_IMPORT[package]) or 'nothing of ours'}; "
            "share words in volume/, messages in proto/"
        )


@pytest.mark.parametrize("file", _FILES)
def test_generated_code_is_touched_only_at_the_edges(file: str) -> None:
    if file in PROTO_EDGES:
        return
    for line, name in _imports(file):
        assert name.split(".")[0] != "proto", (
            f"{file}:{line} imports {name}: translate at the edge ({', '.join(sorted(PROTO_EDGES))}) "
            "and pass values of our own further in"
        )


def _part(module: str) -> str | None:
    """The part of its service that a module belongs to; the longest name that fits."""
    package, _, rest = module.partition(".")
    fitting = [part for part in DOWNWARD.get(package, ()) if f"{rest}.".startswith(f"{part}.")]
    return max(fitting, key=len, default=None)


@pytest.mark.parametrize("file", [file for file in _FILES if file.split("/")[0] in DOWNWARD])
def test_imports_go_downward(file: str) -> None:
    package = file.split("/")[0]
    order, part = DOWNWARD[package], _part(file.removesuffix(".py").replace("/", "."))
    for line, name in _imports(file):
        other = _part(name) if name.startswith(f"{package}.") else None
        if part is None or other is None or (file, other) in EXCEPTIONS:
            continue
        assert order.index(other) <= order.index(part), (
            f"{file}:{line} imports {name}, which stands above it: pass in what it needs, "
            f"or move what both need further down ({' < '.join(order)})"
        )


def test_exceptions_are_needed() -> None:
    for (file, part), why in EXCEPTIONS.items():
        package = file.split("/")[0]
        assert any(name.startswith(f"{package}.{part}") for _, name in _imports(file)), (
            f"{file}: {why}: no more"
        )
