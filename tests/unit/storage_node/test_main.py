"""A storage node as a process: what it does before it answers."""

import argparse
import asyncio
import socket
from pathlib import Path

import pytest

from storage_node.__main__ import serve


def _free() -> str:
    with socket.socket() as taker:
        taker.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{taker.getsockname()[1]}"


def _arguments(folder: Path, listen: str, metrics: str) -> argparse.Namespace:
    return argparse.Namespace(id="s1", az="az1", dir=folder, listen=listen, metrics=metrics)


async def _until_up(metrics: str) -> None:
    host, _, port = metrics.rpartition(":")
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_connection(host, int(port))
            except ConnectionError:
                await asyncio.sleep(0)
                continue
            writer.close()
            return


@pytest.mark.parametrize("ports", ["the same", "others"])
async def test_a_node_that_is_started_twice_harms_nothing(
    ports: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listen, metrics, stopping = _free(), _free(), asyncio.Event()
    first = asyncio.create_task(serve(_arguments(tmp_path, listen, metrics), stopping))
    await _until_up(metrics)
    # The first one is about to create a segment: its manifest comes last.
    unfinished = tmp_path / "segments" / "1-0-a" / "00000001.layer"
    unfinished.parent.mkdir(parents=True)
    unfinished.write_bytes(b"what it has written so far")
    second = _arguments(tmp_path, *((listen, metrics) if ports == "the same" else (_free(), _free())))
    try:
        async with asyncio.timeout(10):
            assert await serve(second, asyncio.Event()) == 1
        assert unfinished.exists()
        assert "another process is using it" in capsys.readouterr().err
    finally:
        stopping.set()
    assert await first == 0
    # Whoever comes after it may have the folder. Its port is let go a moment later, since this process lives on.
    stopped = asyncio.Event()
    stopped.set()
    assert await serve(_arguments(tmp_path, _free(), _free()), stopped) == 0
