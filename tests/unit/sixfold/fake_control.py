"""A control plane that answers from a script, for commands that ask it again and again."""

from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

from volume.errors import VolumeError


class FakeControl:
    """Each question takes the next answer, the last one again and again; an error is raised."""

    def __init__(self, statuses: Iterable[Any] = (), scrubs: Iterable[Any] = ()) -> None:
        self.statuses = list(statuses)
        self.scrubs = list(scrubs)
        self.told: list[tuple[Any, ...]] = []

    def __call__(self, address: str) -> Self:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def status(self) -> Any:
        return _next(self.statuses)

    def scrub(self, nodes: Iterable[str], *, start: bool) -> Any:
        self.told.append(("scrub", *nodes, start))
        return _next(self.scrubs)

    def drain(self, node: str, *, undo: bool = False) -> int:
        self.told.append(("drain", node, undo))
        return 1

    def remove_node(self, node: str) -> None:
        self.told.append(("remove_node", node))

    def add_node(self, node: str, az: str, address: str) -> None:
        self.told.append(("add_node", node, az, address))

    def accept_loss(self, group: int) -> None:
        self.told.append(("accept_loss", group))


def _next(script: list[Any]) -> Any:
    answer = script.pop(0) if len(script) > 1 else script[0]
    if isinstance(answer, VolumeError):
        raise answer
    return answer
