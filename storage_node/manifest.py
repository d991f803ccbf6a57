"""A segment's manifest: what it must say before anyone is told, as a line of JSON and a line with its crc32c."""

import errno
import json
from typing import Any, Final

from runtime.disk import Disk, FromTheMedium
from volume.errors import CorruptRecord, UnknownFormat
from volume.page import checksum

MANIFEST: Final = "manifest"
"""Its name in the segment's folder. A folder without one holds no segment."""

MANIFEST_FORMAT: Final = 2
"""2: members that fill, and the checksums of layer files."""

_FORMATS: Final = (1, MANIFEST_FORMAT)


def read_manifest(disk: Disk, folder: str) -> dict[str, Any]:
    """As the disk has it. Raises CorruptRecord, UnknownFormat, OSError."""
    file = FromTheMedium(disk.open(f"{folder}/{MANIFEST}"))
    try:
        data = file.read(0, file.size)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        raise CorruptRecord(f"open {folder}/manifest: {error}") from None
    finally:
        file.close()
    line, _, rest = data.partition(b"\n")
    if rest != b"%08x\n" % checksum(line):
        raise CorruptRecord(f"open {folder}/manifest: checksum differs")
    fields: dict[str, Any] = json.loads(line)
    if fields["format"] not in _FORMATS:
        raise UnknownFormat(
            f"open {folder}/manifest: format {fields['format']}, this release knows {_FORMATS}"
        )
    return fields


async def write_manifest(disk: Disk, folder: str, fields: dict[str, Any]) -> None:
    """Replaced at once, and durable when this returns. Raises OSError."""
    line = json.dumps({"format": MANIFEST_FORMAT, **fields}).encode()
    await disk.replace(f"{folder}/{MANIFEST}", b"%s\n%08x\n" % (line, checksum(line)))
