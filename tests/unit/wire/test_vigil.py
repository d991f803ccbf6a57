"""The loop stays awake after an answer, for so long and no longer."""

import asyncio
import os

import pytest

from db_instance.wire.postgres.vigil import Vigil


async def _turns_until_asleep(awake_s: float) -> int:
    """How often the vigil had the loop look again after one answer."""
    loop = asyncio.get_running_loop()
    vigil = Vigil(loop, awake_s)
    looks = 0
    look = vigil._look

    def counted() -> None:
        nonlocal looks
        looks += 1
        look()

    vigil._look = counted  # type: ignore[method-assign]
    vigil.prolong()
    vigil.prolong()
    async with asyncio.timeout(10):
        while vigil._awake:
            await asyncio.sleep(0)
    await asyncio.sleep(0)
    return looks


async def test_it_looks_again_and_again_and_then_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1})
    assert await _turns_until_asleep(0.02) > 10


@pytest.mark.parametrize(("cores", "awake_s"), [({0}, 0.02), ({0, 1}, 0.0)])
async def test_with_one_core_or_no_time_it_never_does(
    cores: set[int], awake_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: cores)
    assert await _turns_until_asleep(awake_s) == 0
