"""All layers of one segment, newest first, and how a page is found in them.

A delta layer holds every record of (lsn_from, lsn_to], by page; of a page with many there, the last one comes
first and holds the whole page, so that nobody has to go through them all. An image layer holds, at LSN lsn_to,
the pages that changed in (lsn_from, lsn_to]; a page it lacks did not change there. A read walks from the newest
layer down, gathers records, and ends at the first whole page at or below its LSN.

Layers count once the segment's manifest names them. Whoever changes the map persists the manifest, and
only then removes what is no longer named (`retire`).
"""

import asyncio
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from operator import attrgetter
from typing import Any, Final

import lz4.block

from runtime.disk import NO_FILE_LEFT, Disk, File, FromTheMedium
from storage_node.layers.layer_file import KIND_DELTA, KIND_IMAGE, Entry, LayerReader, LayerWriter
from storage_node.segment.chain import KeyRun, key_runs
from volume.errors import CorruptPage, VolumeError
from volume.ids import LSN_ZERO, Epoch, Lsn, PageNumber
from volume.limits import PAGE_SIZE_BYTES
from volume.page import ZERO_PAGE
from volume.redo_record import (
    FLAG_WHOLE_PAGE,
    RedoRecord,
    apply_records,
    encode_record,
    from_last_whole,
    is_whole,
    iter_records,
    key_of,
    needs_nothing_before,
    packed_whole,
    split_records,
    whole_page_record,
)
from volume.timeline import Timeline

Rest = Callable[[], Awaitable[None]]
"""What background work awaits every millisecond or two, so that the foreground has its turn."""

Places = dict[str, Entry | None]
"""Where a page is in layers, by their names; None: it is not there."""

_FRAMES_A_PORTION: Final = 50
_PAGES_A_PORTION: Final = 200
_RECORDS_A_PORTION: Final = 256

_LONG_CHAIN: Final = 1024
"""Records of one page in one delta layer, from which on the last of them is kept as a whole page."""

_KIND_NAMES: Final = {KIND_DELTA: "delta", KIND_IMAGE: "image"}


async def rest_of_the_loop() -> None:
    """Let whoever is ready go first."""
    await asyncio.sleep(0)


@dataclass(frozen=True, slots=True)
class LayerInfo:
    name: str
    kind: str
    lsn_from: Lsn
    """Exclusive."""
    lsn_to: Lsn
    """Inclusive."""
    page_count: int
    size_bytes: int
    crc: int = 0
    """crc32c of the file; 0 for one that an older release wrote."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(fields: dict[str, Any]) -> "LayerInfo":
        return LayerInfo(**fields)


Opened = dict[LayerInfo, LayerReader]
"""Layers that can be read, and are not in the map yet."""


def _newest_first(infos: Iterable[LayerInfo]) -> list[LayerInfo]:
    # Of a delta and the image made of it, the image comes first: it ends the search.
    return sorted(infos, key=lambda info: (info.lsn_to, info.kind == "image", info.lsn_from), reverse=True)


class LayerMap:
    def __init__(self, disk: Disk, folder: str) -> None:
        self._disk = disk
        self._folder = folder
        self._readers: dict[str, LayerReader] = {}
        self._count = 0
        self._pins: dict[str, int] = {}
        self._doomed: set[str] = set()
        """Retired while a peer copies them: removed once it has."""
        self._ends: dict[str, Lsn] = {}
        """Of delta layers whose end is annulled: the last LSN that counts, in the timeline of `_ends_in`."""
        self._ends_in = Epoch(0)
        self._runs: dict[str, list[KeyRun]] = {}
        """Of delta layers that reached above the known VDL when someone asked."""
        self.layers: tuple[LayerInfo, ...] = ()
        self.retained_from = LSN_ZERO
        """Reads below this LSN may miss what was collected."""

    async def open(self, infos: Sequence[LayerInfo], retained_from: Lsn = LSN_ZERO) -> list[str]:
        """Open what the manifest names. Returns those that are missing or damaged; they are left out."""
        named = {info.name for info in infos}
        # Also of those that are missing: they are still named, and go once others have taken their place.
        self._count = max((_number(name) for name in named), default=self._count)
        for name in self._disk.list(self._folder):
            self._count = max(self._count, _number(name))
            if name.endswith(".layer") and name not in named:
                self._disk.remove(f"{self._folder}/{name}")
        bad = []
        for info in infos:
            try:
                self._readers[info.name] = self._reader(info.name)
            except (VolumeError, OSError) as error:
                if isinstance(error, OSError) and error.errno in NO_FILE_LEFT:
                    raise
                bad.append(info.name)
        self.layers = tuple(_newest_first(info for info in infos if info.name in self._readers))
        self.retained_from = retained_from
        return bad

    def _reader(self, name: str) -> LayerReader:
        file = self._disk.open(f"{self._folder}/{name}")
        try:
            return LayerReader(file, name)
        except BaseException:
            file.close()
            raise

    @property
    def complete_lsn(self) -> Lsn:
        """The layers hold every record of the segment up to here."""
        return max((info.lsn_to for info in self.layers), default=LSN_ZERO)

    @property
    def log_start(self) -> Lsn:
        """Every record above this is in delta layers, or not in layers yet."""
        return _unbroken_from([info for info in self.layers if info.kind == "delta"], self.complete_lsn)

    def counted_end(self, info: LayerInfo, timeline: Timeline) -> Lsn:
        """The layer's last LSN that counts; 0 if none does. An image is of one LSN: it counts or it does not."""
        if timeline.counts(info.lsn_to):
            return info.lsn_to
        if info.kind == "image":
            return LSN_ZERO
        if self._ends_in != timeline.epoch:
            self._ends_in = timeline.epoch
            self._ends.clear()
        end = self._ends.get(info.name)
        if end is None:
            lsns = (record.lsn for record in self.records_of(info.name))
            end = self._ends[info.name] = max(filter(timeline.counts, lsns), default=LSN_ZERO)
        return end

    # Writing

    def new_name(self, kind: str, lsn_from: Lsn, lsn_to: Lsn) -> str:
        self._count += 1
        return f"{kind}-{lsn_from:016x}-{lsn_to:016x}-{self._count}.layer"

    async def write_delta(
        self,
        frames: Iterable[bytes],
        records_at: int,
        lsn_from: Lsn,
        lsn_to: Lsn,
        timeline: Timeline,
        rest: Rest = rest_of_the_loop,
    ) -> LayerInfo:
        """A delta layer of these records; on disk and in the map when this returns.

        `frames`: from `records_at` on in each, encoded records, ascending, of LSNs that count in the timeline.
        `rest` is awaited between portions of the work.
        """
        name = self.new_name("delta", lsn_from, lsn_to)
        file = self.create(name)
        with self.in_the_making(name, file):
            crc = await self._write_delta(file, frames, records_at, lsn_from, lsn_to, timeline, rest)
            await file.sync()
            await self._disk.sync_folder(self._folder)
            file.close()
            return self.add(name, crc)

    async def _write_delta(
        self,
        file: File,
        frames: Iterable[bytes],
        records_at: int,
        lsn_from: Lsn,
        lsn_to: Lsn,
        timeline: Timeline,
        rest: Rest,
    ) -> int:
        """The file's checksum."""
        writer = LayerWriter(file, KIND_DELTA, lsn_from, lsn_to)
        chains: dict[PageNumber, list[bytes]] = {}
        last: dict[PageNumber, Lsn] = {}
        for count, frame in enumerate(frames, 1):
            for page, lsn, record in split_records(frame, records_at):
                chains.setdefault(page, []).append(record)
                last[page] = lsn
            if count % _FRAMES_A_PORTION == 0:
                await rest()
        for count, page in enumerate(sorted(chains), 1):
            records = chains.pop(page)
            if len(records) >= _LONG_CHAIN:
                await self._shorten(page, records, lsn_from, timeline, rest)
            writer.add(page, last[page], b"".join(records))
            if count % _PAGES_A_PORTION == 0:
                await rest()
        writer.finish()
        return writer.crc

    @contextmanager
    def in_the_making(self, name: str, file: File) -> Iterator[None]:
        """A layer is written here: unless it comes into the map, its file goes. What it took may be what is needed."""
        try:
            yield
        finally:
            if name not in self._readers:
                file.close()
                self.discard([name])

    async def _shorten(
        self, page: PageNumber, encoded: list[bytes], before: Lsn, timeline: Timeline, rest: Rest
    ) -> None:
        """Put the last of a page's records in front of the others, as a whole page."""
        first = next((at for at in range(len(encoded) - 1, -1, -1) if is_whole(encoded[at])), None)
        try:
            content = ZERO_PAGE
            if first is None:
                first = 0
                _, content = self.read_page(page, before, timeline)
            for start in range(first, len(encoded), _RECORDS_A_PORTION):
                portion = list(iter_records(b"".join(encoded[start : start + _RECORDS_A_PORTION])))
                content = apply_records(content, portion)
                await rest()
        except CorruptPage:
            return  # whoever reads the page comes upon the same damage, and sees to it
        del encoded[-1]
        encoded.insert(0, encode_record(whole_page_record(portion[-1], content)))

    def add(self, name: str, crc: int) -> LayerInfo:
        """Take a layer that is complete on disk into the map."""
        opened = self.open_complete({name: crc})
        self._take(opened)
        (info,) = opened
        return info

    def open_complete(self, crcs: Mapping[str, int]) -> Opened:
        """Layers that are complete on disk, by their names: all, or none if one cannot be read. Raises CorruptPage,
        UnknownFormat, OSError."""
        opened: Opened = {}
        try:
            for name, crc in crcs.items():
                reader = self._reader(name)
                opened[_info_of(reader, crc)] = reader
        except BaseException:
            for reader in opened.values():
                reader.close()
            raise
        return opened

    def replace(self, opened: Opened) -> list[str]:
        """These take the place of all that there are. The names of those, whose files stay until `retire`."""
        gone = [info.name for info in self.layers]
        self.layers = ()
        self._take(opened)
        return gone

    def _take(self, opened: Opened) -> None:
        self._readers |= {info.name: reader for info, reader in opened.items()}
        self.layers = tuple(_newest_first([*self.layers, *opened]))

    def drop(self, names: Iterable[str]) -> None:
        """Take these out of the map; their files stay until `retire`."""
        gone = set(names)
        self.layers = tuple(info for info in self.layers if info.name not in gone)

    def retire(self, names: Iterable[str]) -> None:
        """The manifest no longer names them: close and remove."""
        for name in names:
            reader = self._readers.pop(name, None)
            if reader is not None:
                reader.close()
            if name in self._pins:
                self._doomed.add(name)
            else:
                self._disk.remove(f"{self._folder}/{name}")

    def discard(self, names: Iterable[str]) -> None:
        """Files that come to nothing are removed; one that cannot be now is when the segment is opened again."""
        with suppress(OSError):
            self.retire(names)

    # Reading

    def read_page(
        self, page: PageNumber, read_lsn: Lsn, timeline: Timeline, newer: Sequence[RedoRecord] = ()
    ) -> tuple[Lsn, bytes]:
        """The page as of `read_lsn` and the LSN of its last change; `newer` are its records in memory.

        Raises CorruptPage. A page never written is LSN 0 and zeros.
        """
        (lsn, content), records = self._gather(page, read_lsn, timeline, newer, {})
        return (records[-1].lsn if records else lsn), apply_records(content, records)

    def read_packed(
        self, page: PageNumber, read_lsn: Lsn, timeline: Timeline, places: Places
    ) -> tuple[Lsn, bytes]:
        """As `read_page`, as an image layer has it. `places`: where it is known to be in some of the layers."""
        (lsn, content), records = self._gather(page, read_lsn, timeline, (), places)
        if not records:
            return lsn, lz4.block.compress(content, store_size=False)
        after = apply_records(content, records)
        packed = packed_whole(records[0]) if len(records) == 1 else None
        return records[-1].lsn, packed or lz4.block.compress(after, store_size=False)

    def _gather(
        self,
        page: PageNumber,
        read_lsn: Lsn,
        timeline: Timeline,
        newer: Sequence[RedoRecord],
        places: Places,
    ) -> tuple[tuple[Lsn, bytes], list[RedoRecord]]:
        """What makes the page what it is at `read_lsn`: an image of it, and the records after that."""
        chains = [from_last_whole(_counted(newer, read_lsn, timeline))]
        lsn, content = LSN_ZERO, ZERO_PAGE
        for info in self.layers:
            if chains[-1] and needs_nothing_before(chains[-1][0]):
                break
            name = info.name
            if info.kind == "delta":
                if info.lsn_from < read_lsn:
                    entry = places[name] if name in places else self._readers[name].find(page)
                    if entry is not None:
                        chains.append(from_last_whole(self._chain(name, entry, read_lsn, timeline)))
            elif info.lsn_to <= read_lsn and timeline.counts(info.lsn_to):
                found = self.image(name, page)
                if found is not None:
                    lsn, content = found
                    break
        base = lsn, content
        wanted: list[RedoRecord] = []
        for chain in reversed(chains):
            if chain and chain[0].lsn <= lsn:
                chain = [record for record in chain if record.lsn > lsn]
            if chain:
                wanted += chain
                lsn = chain[-1].lsn
        return base, wanted

    def _chain(self, name: str, entry: Entry, read_lsn: Lsn, timeline: Timeline) -> list[RedoRecord]:
        """The page's records in one delta layer that make it what it is at `read_lsn`, ascending."""
        records = iter_records(self._readers[name].blob(entry))
        first = next(records)
        if not (first.flags & FLAG_WHOLE_PAGE and first.lsn == entry.lsn):
            return _counted([first, *records], read_lsn, timeline)
        if first.lsn <= read_lsn and timeline.counts(first.lsn):
            return [first]
        return _counted(list(records), read_lsn, timeline)

    def image(self, name: str, page: PageNumber) -> tuple[Lsn, bytes] | None:
        reader = self._readers[name]
        entry = reader.find(page)
        return None if entry is None else (entry.lsn, unpack_image(reader.blob(entry), page))

    def reader(self, name: str) -> LayerReader:
        return self._readers[name]

    def open_again(self, name: str) -> LayerReader:
        """One that reads all of the layer from the medium. Raises OSError, CorruptPage, UnknownFormat."""
        return LayerReader(FromTheMedium(self._disk.open(f"{self._folder}/{name}")), name)

    def records_of(self, name: str) -> list[RedoRecord]:
        """All records of one delta layer, ascending."""
        reader = self._readers[name]
        found = [record for entry in reader.entries() for record in iter_records(reader.blob(entry))]
        return sorted(found, key=attrgetter("lsn"))

    async def read_runs(self, lsn: Lsn, rest: Rest = rest_of_the_loop) -> None:
        """Have at hand what `runs_after` tells: it has to read every record of the layers that reach above `lsn`, and
        of a large transaction, before its end, there are many. What was read is remembered, so that whoever could
        not wait so long may ask again."""
        infos = list(self.log_layers_after(lsn))
        names = {info.name for info in infos}
        self._runs = {name: runs for name, runs in self._runs.items() if name in names}
        for info in infos:
            if info.name not in self._runs and info.name in self._readers:
                self._runs_of(info.name)
                await rest()

    def runs_after(self, lsn: Lsn) -> Iterator[KeyRun]:
        """What the delta layers that reach above `lsn` hold, ascending; one layer in memory at a time."""
        for info in self.log_layers_after(lsn):
            yield from self._runs_of(info.name)

    def _runs_of(self, name: str) -> list[KeyRun]:
        if name not in self._runs:
            self._runs[name] = key_runs(key_of(record) for record in self.records_of(name))
        return self._runs[name]

    def last_counted(self, limit: Lsn, timeline: Timeline) -> Lsn:
        """The last LSN at or below `limit` that is in a layer and counts; 0 if there is none."""
        for info in self.layers:
            end = self.counted_end(info, timeline)
            if end > limit and info.kind == "delta" and info.lsn_from < limit:
                found = (record.lsn for record in self.records_of(info.name) if record.lsn <= limit)
                end = max(filter(timeline.counts, found), default=LSN_ZERO)
            if LSN_ZERO < end <= limit:
                return end
        return LSN_ZERO

    def log_layers_after(self, lsn: Lsn) -> Iterator[LayerInfo]:
        """Delta layers that hold records above `lsn`, oldest first."""
        return reversed([info for info in self.layers if info.kind == "delta" and info.lsn_to > lsn])

    # Copying to a peer

    def create(self, name: str) -> File:
        """A file for a layer that is written here; `add` takes it into the map."""
        return self._disk.open(f"{self._folder}/{name}", create=True)

    def pin(self, names: Sequence[str]) -> Callable[[], None]:
        """Keep these files, even when they are retired, until the answer is called."""
        for name in names:
            self._pins[name] = self._pins.get(name, 0) + 1

        def unpin() -> None:
            for name in names:
                if name not in self._pins:
                    continue  # forgotten: another segment may have a file of that name by now
                self._pins[name] -= 1
                if not self._pins[name]:
                    del self._pins[name]
                    if name in self._doomed:
                        self._doomed.discard(name)
                        self._disk.remove(f"{self._folder}/{name}")

        return unpin

    def holds(self, infos: Iterable[LayerInfo]) -> bool:
        """Are all of these still in the map?"""
        return set(infos) <= set(self.layers)

    def has(self, name: str) -> bool:
        return name in self._readers or name in self._pins

    def open_file(self, name: str) -> File:
        """To read it as it lies on disk."""
        return self._disk.open(f"{self._folder}/{name}")

    def close(self) -> None:
        for reader in self._readers.values():
            reader.close()

    def forget(self) -> None:
        """The segment is given up, and its files with it: also those that a peer copies, since it asks another one."""
        self.close()
        self._readers.clear()
        self._pins.clear()
        self._doomed.clear()
        self.layers = ()


def _info_of(reader: LayerReader, crc: int) -> LayerInfo:
    return LayerInfo(
        reader.name,
        _KIND_NAMES[reader.kind],
        reader.lsn_from,
        reader.lsn_to,
        reader.page_count,
        reader.size_bytes,
        crc,
    )


def _counted(records: Sequence[RedoRecord], read_lsn: Lsn, timeline: Timeline) -> list[RedoRecord]:
    """Those at or below the LSN that count; they are ascending."""
    if not records:
        return []
    if records[-1].lsn > read_lsn:
        records = records[: bisect_right(records, read_lsn, key=attrgetter("lsn"))]
    if records and not timeline.counts_all(records[0].lsn, records[-1].lsn):
        return [record for record in records if timeline.counts(record.lsn)]
    return list(records)


def unpack_image(blob: bytes, page: PageNumber) -> bytes:
    try:
        content = lz4.block.decompress(blob, uncompressed_size=PAGE_SIZE_BYTES)
    except lz4.block.LZ4BlockError as error:
        raise CorruptPage(f"read image of page {page}: {error}") from None
    if len(content) != PAGE_SIZE_BYTES:
        raise CorruptPage(f"read image of page {page}: {len(content)} bytes")
    return bytes(content)


def _unbroken_from(deltas: list[LayerInfo], end: Lsn) -> Lsn:
    """Walk down from `end` as long as one delta begins where the one above it ends."""
    for info in sorted(deltas, key=attrgetter("lsn_to"), reverse=True):
        if info.lsn_to != end:
            break
        end = info.lsn_from
    return end


def _number(name: str) -> int:
    try:
        return int(name.removesuffix(".layer").rsplit("-", 1)[1])
    except (IndexError, ValueError):
        return 0
