"""A cluster on one machine, as a folder: what should run in it, and where everything of it lies.

    cluster.json      the processes: names, zones, addresses, and what is wanted of each
    run/ID.pid        the process that was started last under that name
    ID/               its data
    ID/log/           its events in ID.log, what else it printed in ID.stderr

cluster.json is the one truth about what is wanted. It is replaced as a whole, under a lock, by the
command line and by the control plane, whichever acts.
"""

import fcntl
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from control_plane.cluster.model import Wanted

FORMAT: Final = 1
MODULES: Final = {"storage": "storage_node", "instance": "db_instance", "control": "control_plane"}


class LocalClusterError(Exception):
    """The folder does not hold what is asked for. The message is meant for a human."""


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    id: str
    role: str
    az: str
    address: str
    metrics: str
    sql: str = ""
    """Where clients connect; instances only."""
    options: tuple[str, ...] = ()
    """More words for its command line."""
    wanted: Wanted = Wanted.RUNNING


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    name: str
    segment_size: int
    base_port: int
    processes: tuple[ProcessSpec, ...]

    def process(self, id: str) -> ProcessSpec:
        return next(process for process in self.processes if process.id == id)

    @property
    def control(self) -> ProcessSpec:
        return next(process for process in self.processes if process.role == "control")

    @property
    def instances(self) -> tuple[ProcessSpec, ...]:
        return tuple(process for process in self.processes if process.role == "instance")

    def matching(self, target: str) -> tuple[ProcessSpec, ...]:
        """The process of that name, or all of that zone; none if neither is known."""
        named = tuple(process for process in self.processes if process.id == target)
        return named or tuple(process for process in self.processes if target and process.az == target)

    def with_wanted(self, ids: set[str], wanted: Wanted) -> "ClusterSpec":
        changed = (replace(each, wanted=wanted) if each.id in ids else each for each in self.processes)
        return replace(self, processes=tuple(changed))

    def without(self, id: str) -> "ClusterSpec":
        return replace(self, processes=tuple(each for each in self.processes if each.id != id))

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "ClusterSpec":
        """Raises LocalClusterError unless the text is what `to_json` writes."""
        try:
            found = json.loads(text)
            if found["format"] != FORMAT:
                raise LocalClusterError(f"cluster.json has format {found['format']}, known is {FORMAT}")
            processes = tuple(_process_from(each) for each in found["processes"])
            if [each.role for each in processes].count("control") != 1:
                raise ValueError("it names no control plane, or several")
            return cls(str(found["name"]), int(found["segment_size"]), int(found["base_port"]), processes)
        except (KeyError, TypeError, ValueError) as error:
            raise LocalClusterError(f"cluster.json is damaged: {type(error).__name__}: {error}") from error


def _process_from(found: dict[str, Any]) -> ProcessSpec:
    if found["role"] not in MODULES:
        raise ValueError(f"{found['role']!r} is no role of a process")
    wanted, options = Wanted(found["wanted"]), tuple(str(option) for option in found["options"])
    return ProcessSpec(**{**found, "wanted": wanted, "options": options})


class ClusterFolder:
    def __init__(self, path: Path) -> None:
        self.path = path.resolve()  # processes are told apart by it, whichever way it is typed

    @property
    def spec_file(self) -> Path:
        return self.path / "cluster.json"

    def exists(self) -> bool:
        return self.spec_file.is_file()

    def data_dir(self, id: str) -> Path:
        return self.path / id

    def log_file(self, id: str) -> Path:
        return self.data_dir(id) / "log" / f"{id}.log"

    def stderr_file(self, id: str) -> Path:
        return self.data_dir(id) / "log" / f"{id}.stderr"

    def pid_file(self, id: str) -> Path:
        return self.path / "run" / f"{id}.pid"

    def make(self) -> None:
        (self.path / "run").mkdir(parents=True, exist_ok=True)

    def load(self) -> ClusterSpec:
        try:
            text = self.spec_file.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError) as error:
            raise LocalClusterError(f"no cluster in {self.path} (start one with `sixfold up`)") from error
        except OSError as error:
            raise LocalClusterError(f"read {self.spec_file}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise LocalClusterError(f"cluster.json is damaged: {error}") from error
        return ClusterSpec.from_json(text)

    def save(self, spec: ClusterSpec) -> None:
        temporary = self.spec_file.with_suffix(".new")
        with temporary.open("w") as file:
            file.write(spec.to_json())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.spec_file)

    def change(self, edit: Callable[[ClusterSpec], ClusterSpec]) -> ClusterSpec:
        """Load, edit and save as one step, whoever else does the same."""
        with self.lock("cluster.lock"):
            edited = edit(self.load())
            self.save(edited)
            return edited

    @contextmanager
    def lock(self, name: str, *, wait: bool = True) -> Iterator[None]:
        """Hold a lock file of this folder. Without `wait`, raises BlockingIOError when it is taken."""
        self.make()
        with (self.path / "run" / name).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield


def command_line(folder: ClusterFolder, spec: ClusterSpec, process: ProcessSpec) -> list[str]:
    """The words that start a process. They name it and its folder, so that /proc tells it apart."""
    # -P: the folder we happen to be started in is no place to import from.
    words = [sys.executable, "-P", "-m", MODULES[process.role], "--id", process.id]
    words += ["--dir", str(folder.data_dir(process.id))]
    words += ["--listen", process.address, "--metrics", process.metrics]
    match process.role:
        case "storage":
            words += ["--az", process.az]
        case "instance":
            words += ["--az", process.az, "--control", spec.control.address, "--sql", process.sql]
        case "control":
            words += ["--local-cluster", str(folder.path)]
    return [*words, *process.options]
