"""One db instance: opens the volume, keeps it open, and joins engine, driver and storage together.

opening    no epoch yet, or too few segments answer; sessions are not let in
read-only  three of six segments of some group answer: reads go on, opening is tried again
ok         the writer
stalled    commits wait for a write quorum
fenced     another writer has opened the volume: this process ends
"""

import asyncio
import random
from collections.abc import Callable
from typing import Any, Final

from db_instance.config import InstanceConfig
from db_instance.dialect.functions import FUNCTIONS, OF_TRANSACTIONS
from db_instance.engine.engine import Engine, EngineSettings
from db_instance.engine.page_cache import PageCache
from db_instance.engine.pages import Pages
from db_instance.volume_driver.control_client import ControlClient
from db_instance.volume_driver.driver import DriverSettings, VolumeDriver
from db_instance.volume_driver.opening import Opened, open_volume
from runtime.clock import Clock
from runtime.events import get_logger
from runtime.transport import Transport
from volume.errors import StaleEpoch, VolumeError
from volume.quorum import WRITE_QUORUM

events = get_logger("instance")

_OPEN_RETRY_S: Final = (0.1, 2.0)
_STALLED_AFTER_S: Final = 1.0


class Instance:
    def __init__(
        self, config: InstanceConfig, transport: Transport, clock: Clock, dice: random.Random
    ) -> None:
        self.config = config
        self.engine: Engine | None = None
        self.driver: VolumeDriver | None = None
        self.count_sessions: Callable[[], int] = lambda: 0
        self._transport = transport
        self._clock = clock
        self._dice = dice
        self._control = ControlClient(transport, config.control, config.id)
        self._opening_since = clock.monotonic()
        self._last_reason = "waiting for the control plane"

    @property
    def sessions(self) -> int:
        return self.count_sessions()

    @property
    def state(self) -> str:
        driver = self.driver
        if driver is None:
            return f"opening: {self._last_reason}"
        if driver.fenced.done():
            return "fenced"
        if not driver.writable:
            return "read-only: too few storage nodes"
        if driver.stalled_s > _STALLED_AFTER_S:
            return f"stalled: no write quorum for {driver.stalled_s:.0f} s"
        return "ok"

    async def open(self) -> Engine:
        """Open the volume, however long storage and control plane take to appear."""
        opened = await self._open_until_it_works()
        self.driver = self._drive(opened)
        cache = PageCache(self.config.cache_bytes)
        pages = Pages(self.driver, cache, self._clock)
        settings = EngineSettings(name=self.config.id, spill_folder=str(self.config.dir))
        self.engine = Engine(pages, settings, FUNCTIONS, OF_TRANSACTIONS)
        self.driver.start()
        if not pages.newest:
            await opened.until_leases_end(self._clock)  # an empty volume is written to, others only read
        await self.engine.prepare()
        await opened.until_leases_end(self._clock)
        return self.engine

    async def serve(self, stopping: asyncio.Event) -> VolumeError | None:
        """Return when told to stop (None), or with the reason why this process cannot go on."""
        stop: asyncio.Future[bool] = asyncio.ensure_future(_until(stopping))
        try:
            while not stopping.is_set():
                reason = await self._watch(stop)
                if reason is not None:
                    return reason
            return None
        finally:
            stop.cancel()

    async def close(self) -> None:
        if self.driver is not None:
            await self.driver.stop()
        if self.engine is not None:
            self.engine.close()

    async def _watch(self, stop: "asyncio.Future[bool]") -> VolumeError | None:
        assert self.driver is not None and self.engine is not None
        broken = self.engine.pages.broken
        pause = 1.0 if not self.driver.writable else None
        waited: list[asyncio.Future[Any]] = [stop, self.driver.fenced, broken]
        await asyncio.wait(waited, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
        if broken.done():
            return broken.result()
        if self.driver.fenced.done():
            return self.driver.fenced.result()
        if not self.driver.writable and not stop.done() and await self._enough_answer():
            return await self._reopen()
        return None

    def _drive(self, opened: Opened) -> VolumeDriver:
        settings = DriverSettings(az=self.config.az, commit_timeout_s=self.config.commit_timeout_s)
        return VolumeDriver(opened, self._control, self._transport, self._clock, self._dice, settings)

    async def _open_until_it_works(self) -> Opened:
        delay, longest = _OPEN_RETRY_S
        while True:
            try:
                return await open_volume(self._control, self._transport, self._clock)
            except (VolumeError, TimeoutError) as error:
                reason = f"{type(error).__name__}: {error}"
                if reason != self._last_reason:
                    events.info("volume.not_open_yet", reason=reason)
                self._last_reason = reason
                if isinstance(error, StaleEpoch) and self.driver is not None:
                    raise
            await asyncio.sleep(delay * self._dice.uniform(0.5, 1.0))
            delay = min(longest, 1.5 * delay)

    async def _enough_answer(self) -> bool:
        """While read-only: would a write quorum of every group promise now?"""
        assert self.driver is not None
        return await self.driver.reachable_segments() >= WRITE_QUORUM

    async def _reopen(self) -> VolumeError | None:
        """Open again, to write. The reason why this process cannot go on, if there is one."""
        assert self.driver is not None and self.engine is not None
        before = self.driver
        try:
            opened = await open_volume(self._control, self._transport, self._clock)
            await opened.until_leases_end(self._clock)
            self.driver = self._drive(opened)
        except (VolumeError, TimeoutError) as error:
            events.info("volume.not_open_yet", reason=f"{type(error).__name__}: {error}")
            return None
        await before.stop()
        self.engine.pages.attach(self.driver)
        self.engine.reset_connections()
        self.driver.start()
        try:
            await self.engine.prepare()
        except VolumeError as error:
            return error
        return None


async def _until(event: asyncio.Event) -> bool:
    return await event.wait()
