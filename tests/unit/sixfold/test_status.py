"""How the status is drawn."""

import io
from typing import Any

import pytest
from rich.console import Console

from sixfold.status import draw, size_text, without_read_quorum


def segment(
    slot: int, node: str, state: str = "ok", lag: int = 0, reason: str | None = None
) -> dict[str, Any]:
    return {
        "group": 0,
        "slot": slot,
        "node": node,
        "az": "",
        "scl": 9,
        "lag": lag,
        "state": state,
        "reason": reason,
    }


def node(id: str, health: str = "ok", why: str = "", stuck: int = 0) -> dict[str, Any]:
    return {"id": id, "az": "az1", "health": health, "why": why, "stuck": [{}] * stuck}


def process(id: str, state: str = "running", detail: str = "") -> dict[str, Any]:
    return {
        "id": id,
        "role": "storage",
        "az": "az1",
        "pid": 1,
        "state": state,
        "address": "h:1",
        "detail": detail,
    }


def drawn(**more: Any) -> str:
    found = {
        **{"cluster": "main", "writer": "w1", "epoch": 1, "vdl": 9, "control_plane": "running"},
        **{"processes": [process("s1")], "nodes": [node("s1")], "changes": [], "without_read_quorum": []},
        "segments": [segment(slot, f"s{slot + 1}") for slot in range(6)],
        **more,
    }
    out = io.StringIO()
    draw(Console(file=out, width=160), found)
    return out.getvalue()


def test_a_process_and_a_group_are_a_line_each() -> None:
    lines = [line.split() for line in drawn().splitlines() if line.strip()]
    assert ["s1", "storage", "az1", "1", "running", "ok", "h:1"] in lines
    assert lines[-1] == ["pg0", "9", *(word for slot in range(1, 7) for word in (f"s{slot}", "ok"))]


def test_health_is_told_with_its_reason() -> None:
    found = drawn(
        processes=[process("s1", "killed", "its own story"), process("w1")],
        nodes=[node("s1", "gone", "no answer for 40 s", stuck=2)],
    )
    assert (
        "gone     h:1       its own story; no answer for 40 s; no room elsewhere for 2 of its segments"
        in found
    )


def test_who_is_filled_stands_beneath_who_holds_the_slot() -> None:
    segments = [segment(slot, f"s{slot + 1}") for slot in range(6)]
    segments[1] = segment(1, "s2", "unreachable")
    filling = segment(1, "s7", "filling", reason="repair")
    lines = drawn(segments=[filling, *segments]).splitlines()
    voters = next(index for index, line in enumerate(lines) if "pg0" in line)
    assert lines[voters + 1].strip() == "s7 filling"
    assert lines[voters].index("s2 unreachable") == lines[voters + 1].index("s7 filling")


def test_a_slot_that_nobody_holds_shows_who_will() -> None:
    segments = [segment(slot, f"s{slot + 1}") for slot in range(1, 6)]
    assert "s7 filling   s2 ok" in drawn(segments=[*segments, segment(0, "s7", "filling", reason="repair")])


def test_changes_show_how_far_they_are() -> None:
    change = {
        **{"group": 0, "slot": 1, "from": "s2", "to": "s7", "reason": "repair", "state": "filling"},
        **{"source": "s1", "bytes_done": 1 << 20, "bytes_total": 3 << 29, "bytes_per_s": 2 << 20},
        "seconds_left": 767,
    }
    words = " ".join(drawn(changes=[change]).split())
    assert "pg0/b s2 s7 repair s1 1.0 MiB of 1.5 GiB 2.0 MiB/s 767 s" in words
    waiting = {**change, **dict.fromkeys(("from", "source", "bytes_total", "bytes_per_s", "seconds_left"))}
    assert "pg0/b - s7 repair - filling - -" in " ".join(drawn(changes=[waiting]).split())
    assert "the first 20 of 21 changes" in drawn(changes=[change] * 21)


def test_a_group_without_its_read_quorum_has_a_line_of_its_own() -> None:
    group = {"group": 2, "copies": 1, "needed": 3, "loss_accepted": False}
    line = "pg2 has no read quorum: 1 of its 6 copies is there, 3 are needed. If the others never come back:"
    assert any(each.startswith(line) for each in drawn(without_read_quorum=[group]).splitlines())
    assert "rebuilt from what is left" in without_read_quorum({**group, "loss_accepted": True})


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1 << 20, "1.0 MiB"),
        (10 << 30, "10.0 GiB"),
        (1 << 40, "1.0 TiB"),
        (1 << 60, "1048576.0 TiB"),
    ],
)
def test_sizes_as_a_human_says_them(size: int, expected: str) -> None:
    assert size_text(size) == expected
