"""The metadata store of a single control plane: one SQLite file, synced at each commit.

The calls block for one fdatasync. That is well: they are rare, and nothing on the data path waits
for the control plane. An exclusive lock on the file keeps a second control plane out.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from control_plane.cluster.model import Group, Instance, Member, Node, NodeId, Reason, Volume
from volume.errors import InvalidRequest, StaleEpoch, StaleMembership, UnknownFormat, VolumeBusy
from volume.ids import Epoch, GroupId, Lsn, VolumeId
from volume.quorum import COPIES

FORMAT: Final = 2
LOCK_TIMEOUT_S: Final = 2.0

SCHEMA: Final = """
CREATE TABLE node (
    id TEXT PRIMARY KEY, az TEXT NOT NULL, address TEXT NOT NULL, draining INTEGER NOT NULL DEFAULT 0
) STRICT;
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
    loss_accepted    INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (volume, id)
) STRICT;
CREATE TABLE member (
    volume   INTEGER NOT NULL,
    group_id INTEGER NOT NULL,
    slot     INTEGER NOT NULL CHECK (slot BETWEEN 0 AND 5),
    node     TEXT NOT NULL REFERENCES node,
    created  INTEGER NOT NULL DEFAULT 0,
    reason   TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (volume, group_id, node),
    FOREIGN KEY (volume, group_id) REFERENCES volume_group
) STRICT;
"""
_MEMBER: Final = SCHEMA[SCHEMA.index("CREATE TABLE member") :]

FROM_1: Final = f"""
ALTER TABLE node ADD COLUMN draining INTEGER NOT NULL DEFAULT 0;
ALTER TABLE volume_group ADD COLUMN loss_accepted INTEGER NOT NULL DEFAULT 0;
ALTER TABLE member RENAME TO member_1;
{_MEMBER};
INSERT INTO member (volume, group_id, slot, node, created)
    SELECT volume, group_id, slot, node, created FROM member_1;
DROP TABLE member_1;
"""
"""Before segments could be replaced."""


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
            steps = {0: SCHEMA, 1: FROM_1, FORMAT: ""}.get(found)
            if steps is None:
                raise UnknownFormat(f"open the metadata: format {found}, this release knows {FORMAT}")
            for statement in steps.split(";"):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {FORMAT}")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except sqlite3.IntegrityError as error:
            raise InvalidRequest(f"write the metadata: {error}") from error
        except sqlite3.OperationalError as error:
            # Not PeerUnavailable: that would read as if there were no control plane.
            raise VolumeBusy(f"write the metadata: {error}") from error
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    async def put_nodes(self, nodes: Sequence[Node], instances: Sequence[Instance]) -> None:
        with self._transaction():
            before = {
                id: (az, address) for id, az, address in self._db.execute("SELECT id, az, address FROM node")
            }
            moved = [each.id for each in nodes if before.get(each.id) not in (None, (each.az, each.address))]
            self._db.execute(
                "UPDATE volume_group SET membership_epoch = membership_epoch + 1 WHERE (volume, id) IN"
                f" (SELECT volume, group_id FROM member WHERE node IN ({', '.join('?' * len(moved))}))",
                moved,
            )
            for table, found in (("node", nodes), ("instance", instances)):
                self._db.executemany(
                    f"INSERT INTO {table} (id, az, address) VALUES (?, ?, ?) "
                    "ON CONFLICT DO UPDATE SET az = excluded.az, address = excluded.address",
                    [(each.id, each.az, each.address) for each in found],
                )

    async def nodes(self) -> tuple[Node, ...]:
        rows = self._db.execute("SELECT id, az, address, draining FROM node ORDER BY id")
        return tuple(Node(NodeId(id), az, address, bool(draining)) for id, az, address, draining in rows)

    async def set_draining(self, node: NodeId, draining: bool) -> None:
        with self._transaction():
            changed = self._db.execute("UPDATE node SET draining = ? WHERE id = ?", (int(draining), node))
            if not changed.rowcount:
                raise InvalidRequest(f"drain {node}: there is no storage node of that name")

    async def remove_node(self, node: NodeId) -> None:
        with self._transaction():
            (held,) = self._db.execute("SELECT count(*) FROM member WHERE node = ?", (node,)).fetchone()
            if held:
                raise InvalidRequest(f"remove {node}: it holds segments, {held} of them; drain it first")
            if not self._db.execute("DELETE FROM node WHERE id = ?", (node,)).rowcount:
                raise InvalidRequest(f"remove {node}: there is no storage node of that name")
            (left,) = self._db.execute("SELECT count(*) FROM node").fetchone()
            if left < COPIES:
                raise InvalidRequest(f"remove {node}: a volume needs {COPIES} storage nodes")

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
            self._db.execute(
                "INSERT INTO volume_group (volume, id, membership_epoch, born_lsn) VALUES (?, ?, 1, ?)",
                (volume.id, group, born_lsn),
            )
            self._db.executemany(
                "INSERT INTO member (volume, group_id, slot, node, created) VALUES (?, ?, ?, ?, ?)",
                [(volume.id, group, each.slot, each.node, int(each.created)) for each in members],
            )
            return self._read_volume(name)

    async def mark_created(self, name: str, group: GroupId, slot: int, node: NodeId) -> None:
        with self._transaction():
            self._db.execute(
                "UPDATE member SET created = 1 WHERE volume = ? AND group_id = ? AND slot = ? AND node = ?",
                (self._read_volume(name).id, group, slot, node),
            )

    async def begin_change(
        self, name: str, group: GroupId, expected: Epoch, slot: int, target: NodeId, reason: Reason
    ) -> Volume:
        with self._transaction():
            where = self._next_membership(name, group, expected)
            # One that was being filled for the slot is given up; one on the same node is gone already.
            self._db.execute(
                "DELETE FROM member WHERE volume = ? AND group_id = ? AND slot = ? AND (reason <> '' OR node = ?)",
                (*where, slot, target),
            )
            self._db.execute(
                "INSERT INTO member (volume, group_id, slot, node, reason) VALUES (?, ?, ?, ?, ?)",
                (*where, slot, target, reason),
            )
            return self._read_volume(name)

    async def end_change(
        self, name: str, group: GroupId, expected: Epoch, slot: int, *, keep_new: bool
    ) -> Volume:
        with self._transaction():
            where = self._next_membership(name, group, expected)
            gone = "reason = ''" if keep_new else "reason <> ''"
            self._db.execute(
                f"DELETE FROM member WHERE volume = ? AND group_id = ? AND slot = ? AND {gone}",
                (*where, slot),
            )
            self._db.execute(
                "UPDATE member SET reason = '' WHERE volume = ? AND group_id = ? AND slot = ?", (*where, slot)
            )
            return self._read_volume(name)

    def _next_membership(self, name: str, group: GroupId, expected: Epoch) -> tuple[int, int]:
        volume = self._read_volume(name)
        if not 0 <= group < len(volume.groups):
            raise InvalidRequest(f"change pg{group} of {name}: it has {len(volume.groups)} groups")
        found = volume.groups[group].membership_epoch
        if found != expected:
            raise StaleMembership(f"change pg{group} of {name} after membership {expected}: it is {found}")
        self._db.execute(
            "UPDATE volume_group SET membership_epoch = membership_epoch + 1 WHERE volume = ? AND id = ?",
            (volume.id, group),
        )
        return volume.id, group

    async def accept_loss(self, name: str, group: GroupId) -> None:
        self._set_loss(name, group, accepted=True)

    async def end_loss(self, name: str, group: GroupId) -> None:
        self._set_loss(name, group, accepted=False)

    def _set_loss(self, name: str, group: GroupId, *, accepted: bool) -> None:
        with self._transaction():
            volume = self._read_volume(name)
            if not 0 <= group < len(volume.groups):
                raise InvalidRequest(
                    f"accept loss of pg{group} of {name}: it has {len(volume.groups)} groups"
                )
            self._db.execute(
                "UPDATE volume_group SET loss_accepted = ? WHERE volume = ? AND id = ?",
                (accepted, volume.id, group),
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
        for group, slot, node, created, reason in self._db.execute(
            "SELECT group_id, slot, node, created, reason FROM member WHERE volume = ?"
            " ORDER BY group_id, slot, reason",
            (volume,),
        ):
            member = Member(slot, NodeId(node), bool(created), Reason(reason) if reason else None)
            members.setdefault(group, []).append(member)
        groups = self._db.execute(
            "SELECT id, membership_epoch, born_lsn, loss_accepted FROM volume_group"
            " WHERE volume = ? ORDER BY id",
            (volume,),
        )
        return tuple(
            Group(GroupId(id), Epoch(membership_epoch), Lsn(born), tuple(members[id]), bool(accepted))
            for id, membership_epoch, born, accepted in groups
        )
