"""Where a page lives: page number to protection group. A volume grows by whole groups."""

from dataclasses import dataclass

from volume.ids import GroupId, PageNumber
from volume.limits import PAGE_SIZE_BYTES


@dataclass(frozen=True, slots=True)
class Geometry:
    pages_per_group: int

    @staticmethod
    def of_segment_size(segment_size_bytes: int) -> "Geometry":
        assert segment_size_bytes % PAGE_SIZE_BYTES == 0
        return Geometry(segment_size_bytes // PAGE_SIZE_BYTES)

    def group_of(self, page: PageNumber) -> GroupId:
        assert page >= 1
        return GroupId((page - 1) // self.pages_per_group)

    def groups_for(self, page_count: int) -> int:
        """Groups that a volume of so many pages needs; an empty one has group 0 already."""
        return max(1, -(-page_count // self.pages_per_group))
