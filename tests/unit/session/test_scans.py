"""A scan of a table that is not in memory: its pages are asked for before they are needed."""

from typing import Any

import pytest

from db_instance.engine.pages import Pages
from db_instance.engine.read_ahead import AHEAD_MAX
from db_instance.volume_driver.driver import VolumeDriver
from tests.harness.sql_server import SqlServer
from volume.errors import QuorumLost
from volume.ids import Lsn, PageNumber

_ROWS = 1500


@pytest.fixture
async def cold(sql: SqlServer) -> SqlServer:
    """With a table of some 500 pages, none of which is in memory."""
    client = await sql.connect()
    await client.execute("create table t (id int primary key, body text)")
    await client.execute(
        f"insert into t with recursive c(n) as (select 1 union all select n + 1 from c where n < {_ROWS})"
        f" select n, {' || '.join(['md5(n::text)'] * 40)} from c"
    )
    await client.close()
    sql.engine.pages.cache.clear()
    sql.engine.reset_connections()
    return sql


async def _scan(sql: SqlServer) -> Any:
    client = await sql.connect()
    row = await (await client.execute("select count(*), sum(id), sum(length(body)) from t")).fetchone()
    await client.close()
    return row


_ALL = (_ROWS, _ROWS * (_ROWS + 1) // 2, _ROWS * 40 * 32)


async def test_most_pages_are_on_their_way_before_they_are_missed(
    cold: SqlServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_in_time = 0
    begin = Pages.begin_to_fetch

    def counted(self: Pages, pages: list[int]) -> None:
        nonlocal asked_in_time
        asked_in_time += len(pages)
        begin(self, pages)

    monkeypatch.setattr(Pages, "begin_to_fetch", counted)
    assert await _scan(cold) == _ALL
    assert asked_in_time >= 4 * AHEAD_MAX


async def test_what_could_not_be_fetched_in_time_is_fetched_when_it_is_needed(
    cold: SqlServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = 0
    read = VolumeDriver.read_pages

    async def failing(self: VolumeDriver, pages: list[PageNumber], lsn: Lsn) -> list[tuple[Lsn, bytes]]:
        nonlocal failed
        if len(pages) == AHEAD_MAX:  # who misses a page asks for one more
            failed += 1
            raise QuorumLost("read: not this time")
        return await read(self, pages, lsn)

    monkeypatch.setattr(VolumeDriver, "read_pages", failing)
    assert await _scan(cold) == _ALL
    assert failed > 1
