"""A real cluster for each test, on ports of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.real_cluster import Cluster


@pytest.fixture
def instance_options() -> tuple[str, ...]:
    """Override it in a module: more words for the command line of the db instance."""
    return ()


@pytest.fixture
def control_options() -> tuple[str, ...]:
    """The same of the control plane."""
    return ()


@pytest.fixture
def cluster(
    tmp_path: Path, instance_options: tuple[str, ...], control_options: tuple[str, ...]
) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    made.configure(*instance_options, control=control_options)
    try:
        made.up()
        yield made
    finally:
        made.down()
