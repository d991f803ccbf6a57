"""What the two databases have in common, as far as a measurement cares."""

from dataclasses import dataclass
from typing import Final, Protocol

HOST: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where clients connect, and as whom."""

    port: int
    user: str
    database: str

    @property
    def dsn(self) -> str:
        return f"host={HOST} port={self.port} user={self.user} dbname={self.database} connect_timeout=5"

    @property
    def options(self) -> list[str]:
        """The same for pgbench."""
        return ["-h", HOST, "-p", str(self.port), "-U", self.user]


@dataclass(frozen=True, slots=True)
class Shipped:
    """What a Sixfold instance has sent to its six copies so far."""

    commits: float
    batches_per_copy: float
    bytes_per_copy: float


class Side(Protocol):
    """One of the databases that are compared, while it runs."""

    name: str
    endpoint: Endpoint

    def pids(self) -> list[int]:
        """The processes whose trees are this database."""
        ...

    def shipped(self) -> Shipped | None:
        """None: it does not tell."""
        ...
