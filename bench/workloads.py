"""The workloads, as pgbench knows them. Pure.

tpcb     pgbench's own: three updates, a select and an insert in one transaction
simple   the same without the updates of tellers and branches, which clients contend for (-N)
insert   one row into a table with a key from a sequence
select   one row by its primary key (-S)
"""

from dataclasses import dataclass
from typing import Final

INSERT_TABLE: Final = "bench_insert"
INSERT_SCRIPT: Final = f"\\set n random(1, 1000000000)\nINSERT INTO {INSERT_TABLE} (v) VALUES (:n);\n"
INSERT_SETUP: Final = (
    f"DROP TABLE IF EXISTS {INSERT_TABLE}",
    f"CREATE TABLE {INSERT_TABLE} (id bigserial PRIMARY KEY, v bigint NOT NULL)",
)


@dataclass(frozen=True, slots=True)
class Workload:
    kind: str
    scale: int
    """pgbench's: 100,000 accounts each."""

    protocol: str
    clients: int
    options: tuple[str, ...] = ()
    script: str = ""
    """Its transaction, where it is not one of pgbench's own."""

    @property
    def name(self) -> str:
        """What --only looks at, as in `tpcb s10 prepared c16`."""
        return f"{self.kind} s{self.scale} {self.protocol} c{self.clients}"


def _at(
    clients: tuple[int, ...],
    kind: str,
    scale: int,
    protocol: str,
    options: tuple[str, ...] = (),
    script: str = "",
) -> tuple[Workload, ...]:
    return tuple(Workload(kind, scale, protocol, count, options, script) for count in clients)


# Grouped by scale: the tables are filled anew where it changes.
WORKLOADS: Final = (
    *_at((1, 8, 32), "tpcb", 1, "prepared"),
    *_at((1, 8, 32), "simple", 1, "prepared", ("-N",)),
    *_at((1, 16, 64), "insert", 1, "prepared", ("-n",), INSERT_SCRIPT),
    *_at((1, 8, 32), "select", 1, "prepared", ("-S",)),
    *_at((16, 64), "tpcb", 10, "simple"),
    *_at((16, 64), "tpcb", 10, "prepared"),
)
assert [each.scale for each in WORKLOADS] == sorted(each.scale for each in WORKLOADS)
