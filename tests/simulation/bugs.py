"""`make sim-bugs`: shows that the judges judge. Each bug below is put into the real code, and seeds are run
until one of them fails. A bug that no seed finds is a hole in the simulation.

    python -m tests.simulation.bugs [--only NAME] [--seeds 400]
"""

import argparse
import asyncio
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Final

from tests.simulation.simulation import simulate

SEEDS_MAX: Final = 400
_AT_ONCE: Final = 8
_SEED_S_MAX: Final = 30
"""Of real time; a sound run takes half a second. A bug may as well show as a world that stands still."""


def quorum_of_three() -> None:
    import db_instance.volume_driver.opening as opening
    import volume.quorum

    volume.quorum.WRITE_QUORUM = opening.WRITE_QUORUM = 3  # type: ignore[misc]


def acknowledged_before_the_sync() -> None:
    from storage_node.node import StorageNode

    def settle_at_once(self: Any, segments: Any) -> bool:
        for segment in segments:
            segment.chain.on_synced(segment.chain.scl)
        return True

    StorageNode.settle_at_once = settle_at_once  # type: ignore[method-assign]


def promise_not_persisted() -> None:
    from storage_node.segment_store import SegmentStore

    async def promise(self: Any, epoch: Any) -> None:
        self.check()
        self.chain.promise(epoch)

    SegmentStore.promise = promise  # type: ignore[method-assign]


def promise_after_the_report() -> None:
    from proto import storage_pb2
    from storage_node.server import StorageService
    from volume.ids import Epoch

    async def promise(self: Any, data: bytes) -> bytes:
        request = storage_pb2.PromiseRequest.FromString(data)
        segment = self._segment(request.volume, request.group)
        chain, tail = segment.chain, segment.report()
        reply = storage_pb2.PromiseReply(
            scl=chain.scl,
            known_vdl=chain.known_vdl,
            timeline=chain.timeline.encode(),
            run_first=[first for first, _ in tail.runs],
            run_last=[last for _, last in tail.runs],
            cpl=tail.cpls,
            chain_base=tail.chain_base,
        ).SerializeToString()
        await self._node.synced()
        await asyncio.sleep(0.3)
        await segment.promise(Epoch(request.epoch))
        return reply

    StorageService.promise = promise  # type: ignore[method-assign]


def old_epochs_accepted() -> None:
    from storage_node.segment.chain import Chain

    Chain.check_writer = lambda self, epoch: None  # type: ignore[method-assign]


def truncation_not_persisted() -> None:
    from storage_node.segment_store import SegmentStore

    install = SegmentStore.install

    async def forgetful(self: Any, timeline: Any, vdl: Any) -> None:
        async def nothing() -> None:
            pass

        self.save = nothing
        try:
            await install(self, timeline, vdl)
        finally:
            del self.save

    SegmentStore.install = forgetful  # type: ignore[method-assign]


def truncation_ignored() -> None:
    from volume.timeline import Timeline

    Timeline.counts = lambda self, lsn: True  # type: ignore[method-assign]
    Timeline.counts_all = lambda self, first, last: True  # type: ignore[method-assign]


def gaps_not_checked() -> None:
    from storage_node.segment.chain import NOTHING, Chain, Taken

    def offer(self: Any, header: Any, frame: bytes) -> Any:
        if header.last_lsn <= self.scl:
            return NOTHING
        self.scl = header.last_lsn
        return Taken(frame, header.last_lsn, [frame])

    Chain.offer = offer  # type: ignore[method-assign]


def checksums_not_checked() -> None:
    """Neither of frames read back nor of the pages that they make."""
    import storage_node.hot_log as hot_log
    import storage_node.layers.layer_map as layer_map
    import storage_node.segment_store as segment_store
    from volume.errors import CorruptPage

    hot_log.check_against = lambda header, frame: None  # type: ignore[assignment]
    apply_records = layer_map.apply_records

    def believing(page: bytes, records: Any) -> bytes:
        try:
            return apply_records(page, records)
        except CorruptPage:
            return page

    layer_map.apply_records = segment_store.apply_records = believing


def layers_not_checked() -> None:
    import storage_node.layers.layer_file as layer_file
    import storage_node.layers.layer_map as layer_map
    from volume.errors import CorruptPage

    def blob(self: Any, entry: Any) -> bytes:
        return bytes(self._read(entry.offset, entry.size))

    apply_records = layer_map.apply_records

    def believing(page: bytes, records: Any) -> bytes:
        try:
            return apply_records(page, records)
        except CorruptPage:
            return page

    layer_file.LayerReader.blob = blob  # type: ignore[method-assign]
    layer_map.apply_records = believing


def read_points_ignored_by_collection() -> None:
    from db_instance.volume_driver.driver import VolumeDriver

    VolumeDriver.read_floor = property(lambda self: self.vdl)  # type: ignore[method-assign, assignment]


def recovery_ignores_gaps() -> None:
    import volume.recovery as recovery

    def complete_to(base: Any, tails: Any, timeline: Any) -> Any:
        return max([base, *(last for tail in tails for _, last in tail.runs)])

    recovery._complete_to = complete_to


def promises_of_two() -> None:
    import db_instance.volume_driver.opening as opening
    import volume.recovery

    opening.READ_QUORUM = volume.recovery.READ_QUORUM = 2  # type: ignore[misc]
    opening._LATECOMERS_S = 0.0  # type: ignore[misc]
    opening.WRITE_QUORUM = 2  # type: ignore[misc]


def no_completion_before_the_first_write() -> None:
    import db_instance.volume_driver.opening as opening

    async def complete(*_: Any) -> None:
        return

    opening._complete = complete


def lsns_used_again() -> None:
    import db_instance.volume_driver.opening as opening

    recover = opening.recover

    def reusing(*arguments: Any) -> Any:
        import dataclasses

        found = recover(*arguments)
        return dataclasses.replace(found, next_lsn=found.vdl + 1)

    opening.recover = reusing  # type: ignore[assignment]


def nothing_sent_again_after_a_broken_stream() -> None:
    from db_instance.volume_driver.batcher import Batcher

    Batcher.retained = lambda self, group: []  # type: ignore[method-assign]


def commits_answered_at_once() -> None:
    from db_instance.engine.engine import Engine

    async def wait_durable(self: Any, lsn: Any) -> None:
        return

    Engine.wait_durable = wait_durable  # type: ignore[method-assign]


def two_hold_the_write_lock() -> None:
    from db_instance.engine.write_lock import WriteLock

    async def acquire(self: Any, timeout_s: Any) -> None:
        self._held = True

    def release(self: Any) -> None:
        self._held = False

    WriteLock.acquire = acquire  # type: ignore[method-assign]
    WriteLock.release = release  # type: ignore[method-assign]


def hot_log_let_go_before_the_flush() -> None:
    from storage_node.node import StorageNode

    StorageNode._flushed = lambda self, key: 2**63  # type: ignore[method-assign, assignment, return-value]


def reads_of_segments_that_are_behind() -> None:
    from storage_node.segment_store import SegmentStore

    read = SegmentStore.read
    SegmentStore.read = lambda self, page, lsn, required: read(self, page, lsn, 0)  # type: ignore[method-assign, arg-type]


def staged_pages_outlive_a_rollback() -> None:
    from db_instance.engine.vfs import VolumeFile

    def sync(self: Any, flags: int) -> None:
        if self._staged is not None:
            lsn = self._pages.commit(self._staged)
            if lsn is not None:
                self.commit_lsn = lsn
            self._staged.close()
            self._staged = None

    VolumeFile.xSync = sync  # type: ignore[method-assign]
    VolumeFile.discard = lambda self: None  # type: ignore[method-assign]


def pages_taken_back_to_a_savepoint_are_logged() -> None:
    import db_instance.engine.mini_transaction as mini_transaction
    from db_instance.engine.staged_pages import StagedPages

    StagedPages.truncate = lambda self, page_count: None  # type: ignore[method-assign]
    mini_transaction.LSN_ZERO = -1  # type: ignore[misc, assignment]


def stale_membership_accepted() -> None:
    import storage_node.server as server
    from storage_node.segment_store import SegmentStore

    SegmentStore.check_membership = lambda self, epoch: None  # type: ignore[method-assign]
    server._FIRST_MEMBERSHIP = 1 << 60  # type: ignore[misc]
    server.AppendStream._learn = lambda self, told: None  # type: ignore[method-assign]


def replacement_votes_at_once() -> None:
    from storage_node.segment_store import SegmentStore

    SegmentStore.filling = property(lambda self: False)  # type: ignore[assignment, method-assign]


def any_member_of_a_slot_suffices() -> None:
    from volume.quorum import COPIES
    from volume.quorum_set import QuorumSet

    def slot_lsns(self: Any, scl_by_node: Any) -> Any:
        lsns = [0] * COPIES
        for member in self.members:
            lsns[member.slot] = max(lsns[member.slot], scl_by_node.get(member.node, 0))
        return lsns

    QuorumSet.slot_lsns = slot_lsns  # type: ignore[method-assign]
    QuorumSet.slots_where = lambda self, done: {m.slot for m in self.members if done(m)}  # type: ignore[method-assign]


def finished_before_it_is_filled() -> None:
    from control_plane.cluster.membership import _Planner

    _Planner._is_filled = lambda self, volume, group, member, fence: member.created  # type: ignore[method-assign]


def lost_segment_made_anew() -> None:
    """An empty segment in the place of one that is gone, with its vote, and without its promises."""
    import control_plane.volumes as volumes
    from control_plane.cluster.reconcile import CreateSegment

    def plan(all_volumes: Any, answering: Any) -> Any:
        return [
            CreateSegment(volume, group, member)
            for volume in all_volumes
            for group in volume.groups
            for member in group.members
            if member.node in answering
        ]

    volumes.plan_segments = plan


def lease_ignored() -> None:
    from db_instance.volume_driver.lease_keeper import LeaseKeeper

    LeaseKeeper.holds = lambda self: True  # type: ignore[method-assign]


def leases_not_waited_for() -> None:
    from storage_node.node import StorageNode

    StorageNode.lease_left_s = lambda self, volume, epoch: 0.0  # type: ignore[method-assign]


def evicted_above_the_vdl() -> None:
    from db_instance.engine.page_cache import PageCache

    on_vdl = PageCache.on_vdl
    PageCache.on_vdl = lambda self, vdl, floor: on_vdl(self, 1 << 62, 1 << 62)  # type: ignore[method-assign]


def unlogged_acknowledged_by_scl() -> None:
    """Segments tell how far they have taken log, not how far it is on their disk."""
    from storage_node.segment.chain import Chain

    Chain.durable_scl = property(lambda self: self.scl, lambda self, value: None)  # type: ignore[assignment, method-assign]


def whole_page_of_another_moment() -> None:
    """The last record of a page with many is kept whole, as the page was before it."""
    import storage_node.layers.layer_map as layer_map

    kept = layer_map.whole_page_record

    def wrong(record: Any, after: bytes) -> Any:
        return kept(record, bytes(len(after)))

    layer_map.whole_page_record = wrong


BUGS: Final[tuple[Callable[[], None], ...]] = (
    quorum_of_three,
    acknowledged_before_the_sync,
    promise_not_persisted,
    promise_after_the_report,
    promises_of_two,
    old_epochs_accepted,
    truncation_not_persisted,
    truncation_ignored,
    gaps_not_checked,
    checksums_not_checked,
    layers_not_checked,
    read_points_ignored_by_collection,
    recovery_ignores_gaps,
    no_completion_before_the_first_write,
    lsns_used_again,
    nothing_sent_again_after_a_broken_stream,
    commits_answered_at_once,
    two_hold_the_write_lock,
    hot_log_let_go_before_the_flush,
    reads_of_segments_that_are_behind,
    staged_pages_outlive_a_rollback,
    pages_taken_back_to_a_savepoint_are_logged,
    stale_membership_accepted,
    replacement_votes_at_once,
    any_member_of_a_slot_suffices,
    finished_before_it_is_filled,
    lost_segment_made_anew,
    lease_ignored,
    leases_not_waited_for,
    evicted_above_the_vdl,
    unlogged_acknowledged_by_scl,
    whole_page_of_another_moment,
)


def _failure(seed: int) -> str | None:
    """In a process of its own, with the bug: why the seed failed."""
    signal.signal(signal.SIGALRM, _give_up)
    signal.alarm(_SEED_S_MAX)
    try:
        simulate(seed)
    except BaseException as error:  # a bug may show as anything
        return f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
    return None


def _give_up(number: int, frame: object) -> None:
    raise TimeoutError(f"it stands still for {_SEED_S_MAX} s")


def seeds_until_caught(bug: Callable[[], None], seeds_max: int) -> tuple[int, str] | None:
    """The first seed that fails, and why; None if none does."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context, initializer=bug) as pool:
        for first in range(1, seeds_max + 1, _AT_ONCE):
            seeds = range(first, min(first + _AT_ONCE, seeds_max + 1))
            for seed, failure in zip(seeds, pool.map(_failure, seeds), strict=True):
                if failure is not None:
                    pool.shutdown(cancel_futures=True)
                    return seed, failure
    return None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.bugs", description=__doc__)
    parser.add_argument("--only", metavar="NAME", help="one of them")
    parser.add_argument("--seeds", type=int, default=SEEDS_MAX, help="to try at most (default %(default)s)")
    arguments = parser.parse_args()
    missed = 0
    bugs = [bug for bug in BUGS if arguments.only in (None, bug.__name__)]
    if not bugs:
        parser.error(f"--only: no bug is called {arguments.only}")
    for bug in bugs:
        started = time.monotonic()
        found = seeds_until_caught(bug, arguments.seeds)
        took = f"{time.monotonic() - started:.0f} s"
        if found is None:
            missed += 1
            print(f"{bug.__name__:42} NOT CAUGHT in {arguments.seeds} seeds, {took}", flush=True)
        else:
            reason = found[1].partition(": ")[2].replace("\n", " ")[:110]
            print(f"{bug.__name__:42} seed {found[0]:4}, {took}: {reason}", flush=True)
    print(f"{len(bugs)} bugs, {missed} not caught")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
