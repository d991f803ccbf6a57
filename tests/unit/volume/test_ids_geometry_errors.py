"""The small modules: names, where a page lives, and how a failure travels."""

import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volume import errors
from volume.geometry import Geometry
from volume.ids import GroupId, PageNumber, SegmentId

MIB = 1024 * 1024


def test_a_segment_is_named_by_group_and_letter() -> None:
    assert [str(SegmentId(GroupId(3), slot)) for slot in range(6)] == [f"pg3/{letter}" for letter in "abcdef"]


@pytest.mark.parametrize(
    ("why", "page", "group"),
    [
        ("the first page", 1, 0),
        ("the last of the first group", 256, 0),
        ("the first of the second", 257, 1),
        ("far out", 2561, 10),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_group_of_a_page(why: str, page: int, group: int) -> None:
    assert Geometry.of_segment_size(MIB).group_of(PageNumber(page)) == group


@given(st.integers(1, 10_000), st.integers(0, 10_000_000))
def test_a_volume_has_just_the_groups_its_pages_need(pages_per_group: int, page_count: int) -> None:
    geometry = Geometry(pages_per_group)
    count = geometry.groups_for(page_count)
    assert count >= 1
    if page_count:
        assert geometry.group_of(PageNumber(page_count)) == count - 1


ERRORS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_a_failure_is_found_by_its_name_and_takes_one_message(kind: type[errors.VolumeError]) -> None:
    assert errors.error_by_name(kind.__name__) is kind
    assert str(kind("read page 3: gone")) == "read page 3: gone"


@pytest.mark.parametrize("name", ["", "OSError", "error_by_name", "__name__", "NoSuchError"])
def test_a_name_that_is_no_failure_of_ours_is_not_found(name: str) -> None:
    assert errors.error_by_name(name) is None


@pytest.mark.parametrize(
    ("kind", "retryable"),
    [
        (errors.StaleEpoch, False),
        (errors.LsnCollected, False),
        (errors.InvalidRequest, False),
        (errors.UnknownFormat, False),
        (errors.NotYetComplete, True),
        (errors.PeerUnavailable, True),
        (errors.DeadlineExceeded, True),
        (errors.SegmentFailed, True),
    ],
)
def test_another_segment_may_help_only_where_it_can(kind: type[errors.VolumeError], retryable: bool) -> None:
    assert kind.retryable is retryable
