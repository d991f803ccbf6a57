"""Any story of one segment whose tail is annulled by an opening that breaks off, and counts again to the next one."""

import random
from collections.abc import Sequence

import pytest

from storage_node.layers.compaction import ImageWriting
from storage_node.segment_store import SegmentStore
from tests.simulation.sim_disk import SimDisk
from tests.simulation.virtual_loop import run
from tests.unit.storage_node.log_model import GroupLog, framed
from tests.unit.storage_node.test_segment_store import _FOLDER, _NODE, _opened
from volume.ids import LSN_ZERO, Epoch, Lsn, PageNumber
from volume.redo_record import RedoRecord

_PAGES = 3


class _Story:
    def __init__(self, dice: random.Random, disk: SimDisk, log: GroupLog, store: SegmentStore) -> None:
        self._dice = dice
        self._disk = disk
        self._log = log
        self._store = store
        self._epoch = 1

    async def round(self) -> None:
        dice, log = self._dice, self._log
        new = [log.write(dice.randint(1, _PAGES)) for _ in range(dice.randint(2, 12))]
        await self._take(new[: dice.randint(0, len(new))])
        self._judge()
        old, end = log.timeline, log.lsn
        known = max(self._store.chain.known_vdl, new[0].group_prev_lsn)
        vdls = [known, *(record.lsn for record in new)]
        if dice.random() < 0.8:  # an opening that reaches nobody else
            self._epoch += 1
            timeline = old.annul(Epoch(self._epoch), Lsn(dice.choice(vdls)), Lsn(end + 5))
            await self._store.install(timeline, LSN_ZERO)
            await self._background()
        self._epoch += 1
        vdl, log.lsn = Lsn(dice.choice(vdls)), Lsn(end + 10)
        log.timeline = old.annul(Epoch(self._epoch), vdl, log.lsn)
        await self._store.install(log.timeline, LSN_ZERO)
        await self._take(self._missing())
        if dice.random() < 0.5:
            store = self._store
            store.chain.known_vdl = Lsn(max(store.chain.known_vdl, min(vdl, store.chain.scl)))
            store.read_floor = store.chain.known_vdl
            await self._compact()
        self._judge()
        if dice.random() < 0.3:
            self._store = await SegmentStore.load(self._disk, _NODE, _FOLDER)
            assert self._store.failed is None
            await self._take(self._missing())

    def _missing(self) -> list[RedoRecord]:
        return [record for record in self._log.chain if record.lsn > self._store.chain.scl]

    async def _take(self, records: Sequence[RedoRecord]) -> None:
        """They come in parts, with work of the background in between."""
        while records:
            count = self._dice.randint(1, 4)
            self._store.offer(*framed(records[:count], epoch=self._epoch))
            self._store.chain.on_synced(self._store.chain.scl)
            records = records[count:]
            await self._background()
            self._judge()

    async def _background(self) -> None:
        if self._dice.random() < 0.5:
            await self._store.flush()
        if self._dice.random() < 0.2:
            await self._compact()

    async def _compact(self) -> None:
        while (wanted := self._store.worth_doing()) is not None:
            writing = None
            if wanted.kind != "drop":
                layers, timeline = self._store.layers, self._store.chain.timeline
                writing = ImageWriting(self._disk, _FOLDER, layers, wanted, timeline)
                for _ in writing.steps():
                    pass
            await self._store.finish(wanted, writing)

    def _judge(self) -> None:
        """What counts is there, and read as it was; and it is what an opening hears of."""
        store, log = self._store, self._log
        scl = store.chain.scl
        counted = [record.lsn for record in log.chain if record.lsn <= scl]
        assert scl == (counted[-1] if counted else 0)
        for page in range(1, _PAGES + 1):
            for lsn in {scl, *self._dice.sample(counted, min(2, len(counted)))}:
                if lsn >= store.layers.retained_from:
                    assert store.read(PageNumber(page), Lsn(lsn), scl) == log.page_at(page, lsn)
        told = [lsn for first, last in store.report().runs for lsn in range(first, last + 1)]
        told = [lsn for lsn in told if lsn <= scl and log.timeline.counts(Lsn(lsn))]
        assert told == [lsn for lsn in counted if lsn > store.chain.known_vdl]


@pytest.mark.parametrize("seed", range(200))
def test_what_counts_is_read_and_reported_whatever_was_annulled_meanwhile(seed: int) -> None:
    async def main() -> None:
        disk, log = SimDisk(random.Random(1)), GroupLog()
        story = _Story(random.Random(seed), disk, log, await _opened(disk, log))
        for _ in range(3):
            await story.round()

    run(main())
