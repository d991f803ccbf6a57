"""The metadata store of a single control plane: one SQLite file, synced at each commit.

The calls block for one fdatasync. That is well: they are rare, and nothing on the data path waits
for the control plane. An exclusive lock on the file keeps a second control plane out.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from control_plane.cluster.model import Group, Instance, Member, Node, NodeId, Volume
from volume.errors import InvalidRequest, PeerUnavailable, StaleEpoch, UnknownFormat
from volume.ids import Epoch, GroupId, Lsn, VolumeId

FORMAT: Final = 1
LOCK_TIMEOUT_S: Final = 2.0

SCHEMA: Final = """
CREATE TABLE node     (id TEXT PRIMARY KEY, az TEXT NOT NULL, address TEXT NOT NULL) STRICT;
CREATE TABLE instance (id TEXT PRIMARY KEY, az TEXT NOT NULL, address TEXT NOT NULL) STRICT;
CREATE TABLE volume (
    id           INTEGER PRIMARY KEY,
    name         TEXT NOT NULL UNIQUE,
    segment_size INTEGER NOT NULL CHECK (segment_size > 0),
    epoch        INTEGER NOT NULL DEFAULT 0,
    writer       TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE TABLE volume_group (
    volume           INTEGER NOT NULL REFERENCES volume,
    id               INTEGER NOT NULL,
    membership_epoch INTEGER NOT NULL,
    born_lsn         INTEGER NOT NULL,
    PRIMARY KEY (volume, id)
) STRICT;
CREATE TABLE member (
    volume   INTEGER NOT NULL,
    group_id INTEGER NOT NULL,
    slot     INTEGER NOT NULL CHECK (slot BETWEEN 0 AND 5),
    node     TEXT NOT NULL REFERENCES node,
    created  INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (volume, group_id, slot),
    UNIQUE (volume, group_id, node),
    FOREIGN KEY (volume, group_id) REFERENCES volume_group
) STRICT;
"""


class EmbeddedMetadata:
    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, timeout=LOCK_TIMEOUT_S, isolation_level=None)
        try:
            self._prepare()
        except BaseException:
            self._db.close()
            raise

    def _prepare(self) -> None:
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._db.execute("PRAGMA journal_mode = DELETE")
        self._db.execute("PRAGMA synchronous = EXTRA")  # FULL, and the folder once the journal is gone
        self._db.execute("PRAGMA foreign_keys = ON")
        with self._transaction():
            found = self._db.execute("PRAGMA user_version").fetchone()[0]
            if found == 0:
                for statement in SCHEMA.split(";"):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version = {FORMAT}")
            elif found != FORMAT:
                raise UnknownFormat(f"open the metadata: format {found}, this release knows {FORMAT}")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise PeerUnavailable(f"write the metadata: {error}") from error
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    async def put_nodes(self, nodes: Sequence[Node], instances: Sequence[Instance]) -> None:
        with self._transaction():
            for table, found in (("node", nodes), ("instance", instances)):
                self._db.executemany(
                    f"INSERT INTO {table} VALUES (?, ?, ?) "
                    "ON CONFLICT DO UPDATE SET az = excluded.az, address = excluded.address",
                    [(each.id, each.az, each.address) for each in found],
                )

    async def nodes(self) -> tuple[Node, ...]:
        rows = self._db.execute("SELECT id, az, address FROM node ORDER BY id")
        return tuple(Node(NodeId(id), az, address) for id, az, address in rows)

    async def instances(self) -> tuple[Instance, ...]:
        rows = self._db.execute("SELECT id, az, address FROM instance ORDER BY id")
        return tuple(Instance(*row) for row in rows)

    async def volumes(self) -> tuple[Volume, ...]:
        names = self._db.execute("SELECT name FROM volume ORDER BY id").fetchall()
        return tuple(self._read_volume(name) for (name,) in names)

    async def volume(self, name: str) -> Volume:
        return self._read_volume(name)

    async def create_volume(self, name: str, segment_size: int) -> Volume:
        with self._transaction():
            self._db.execute(
                "INSERT INTO volume (name, segment_size) VALUES (?, ?) ON CONFLICT (name) DO NOTHING",
                (name, segment_size),
            )
            return self._read_volume(name)

    async def grant_epoch(self, name: str, expected: Epoch, writer: str) -> Volume:
        with self._transaction():
            before = self._read_volume(name)
            if expected not in (0, before.epoch):
                raise StaleEpoch(f"open volume {name} after epoch {expected}: now in {before.epoch}")
            self._db.execute(
                "UPDATE volume SET epoch = epoch + 1, writer = ? WHERE id = ?", (writer, before.id)
            )
            return self._read_volume(name)

    async def add_group(self, name: str, group: GroupId, born_lsn: Lsn, members: Sequence[Member]) -> Volume:
        with self._transaction():
            volume = self._read_volume(name)
            if group < len(volume.groups):
                return volume
            if group > len(volume.groups):
                raise InvalidRequest(f"add group {group} to {name}: it has {len(volume.groups)} groups")
            self._db.execute("INSERT INTO volume_group VALUES (?, ?, 1, ?)", (volume.id, group, born_lsn))
            self._db.executemany(
                "INSERT INTO member VALUES (?, ?, ?, ?, ?)",
                [(volume.id, group, each.slot, each.node, int(each.created)) for each in members],
            )
            return self._read_volume(name)

    async def mark_created(self, name: str, group: GroupId, slot: int, node: NodeId) -> None:
        with self._transaction():
            self._db.execute(
                "UPDATE member SET created = 1 WHERE volume = ? AND group_id = ? AND slot = ? AND node = ?",
                (self._read_volume(name).id, group, slot, node),
            )

    async def close(self) -> None:
        self._db.close()

    def _read_volume(self, name: str) -> Volume:
        row = self._db.execute(
            "SELECT id, segment_size, epoch, writer FROM volume WHERE name = ?", (name,)
        ).fetchone()
        if row is None:
            raise InvalidRequest(f"look for volume {name!r}: there is none of that name")
        id, segment_size, epoch, writer = row
        return Volume(VolumeId(id), name, segment_size, Epoch(epoch), writer, self._read_groups(id))

    def _read_groups(self, volume: int) -> tuple[Group, ...]:
        members: dict[int, list[Member]] = {}
        for group, slot, node, created in self._db.execute(
            "SELECT group_id, slot, node, created FROM member WHERE volume = ? ORDER BY group_id, slot",
            (volume,),
        ):
            members.setdefault(group, []).append(Member(slot, NodeId(node), bool(created)))
        groups = self._db.execute(
            "SELECT id, membership_epoch, born_lsn FROM volume_group WHERE volume = ? ORDER BY id", (volume,)
        )
        return tuple(
            Group(GroupId(id), Epoch(membership_epoch), Lsn(born), tuple(members[id]))
            for id, membership_epoch, born in groups
        )
