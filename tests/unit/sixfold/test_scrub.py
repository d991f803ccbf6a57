import io
from typing import Any

import pytest
from rich.console import Console

from sixfold import scrub as module
from sixfold.errors import CommandFailed
from sixfold.scrub import is_sound, lines, scrub, summary
from tests.unit.sixfold.fake_control import FakeControl
from volume.errors import InvalidRequest, PeerUnavailable


def reply(running: bool = False, number: int = 1, **more: Any) -> dict[str, Any]:
    fields = {"bytes_done": 512, "bytes_total": 1024, "layers": 2, "frames": 10, "found": [], "mended": []}
    return {"number": number, "running": running, **fields, **more}


AWAY = {"error": "PeerUnavailable: away"}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.001)
    monkeypatch.setattr(module, "SILENCE_S_MAX", 0.05)

    def run(*scrubs: Any, terminal: bool = False) -> tuple[bool, str, FakeControl]:
        control = FakeControl(scrubs=scrubs)
        monkeypatch.setattr(module, "ControlClient", control)
        out = io.StringIO()
        sound = scrub([], "h:1", Console(file=out, width=160, force_terminal=terminal))
        return sound, out.getvalue(), control

    return run


def test_it_waits_until_all_are_done(run: Any) -> None:
    sound, out, control = run(
        {"s1": reply(running=True), "s2": reply(running=True)},
        {"s1": reply(), "s2": reply(running=True)},
        {"s2": reply(running=True)},
        {"s2": reply()},
    )
    assert sound
    assert out == "scrubbed 4 layers, 20 frames, 2.0 KiB on 2 nodes: nothing damaged\n"
    assert control.told == [
        ("scrub", True),
        ("scrub", "s1", "s2", False),
        ("scrub", "s2", False),
        ("scrub", "s2", False),
    ]


def test_a_terminal_sees_how_far_it_is(run: Any) -> None:
    _, out, _ = run({"s1": reply(running=True), "s2": AWAY}, {"s1": reply(bytes_done=1024)}, terminal=True)
    assert "s1" in out
    assert "512 B" in out


def test_what_was_found_is_told_line_by_line(run: Any) -> None:
    found = {"found": ["pg0/a: bad", "s1: worse; not mended: why"], "mended": ["pg0/a: bad; a peer's"]}
    sound, out, _ = run({"s1": reply(**found), "s2": reply()})
    assert not sound
    assert out.splitlines() == [
        "s1  damaged  pg0/a: bad",
        "s1  damaged  s1: worse; not mended: why",
        "s1  mended   pg0/a: bad; a peer's",
        "scrubbed 4 layers, 20 frames, 2.0 KiB on 2 nodes: 2 damaged, 1 mended",
    ]


def test_one_that_does_not_answer_is_not_waited_for(run: Any) -> None:
    sound, out, _ = run({"s1": reply(), "s2": AWAY})
    assert not sound
    assert "s2  no answer  PeerUnavailable: away\n" in out
    assert out.endswith("on 1 node: nothing damaged; 1 node did not answer\n")


def test_one_that_falls_silent_is_given_up_after_a_while(run: Any) -> None:
    sound, out, _ = run({"s1": reply(running=True)}, PeerUnavailable("control is away"), {"s1": AWAY})
    assert not sound
    assert "s1  no answer" in out


def test_a_moment_of_silence_is_forgiven(run: Any) -> None:
    sound, _, _ = run({"s1": reply(running=True)}, {"s1": AWAY}, PeerUnavailable("away"), {"s1": reply()})
    assert sound


def test_a_node_that_is_started_again_has_lost_its_scrub(run: Any) -> None:
    sound, out, _ = run({"s1": reply(running=True, number=3)}, {"s1": reply(number=0)})
    assert not sound
    assert "started again" in out


def test_what_the_control_plane_refuses_fails_the_command(run: Any) -> None:
    with pytest.raises(CommandFailed, match="no storage node of that name"):
        run(InvalidRequest("scrub s9: there is no storage node of that name"))
    with pytest.raises(CommandFailed, match="no storage nodes"):
        run({})


def test_the_summary_counts() -> None:
    replies = {"s1": reply(found=["x"], mended=["x"], bytes_total=3 << 30, layers=1, frames=1)}
    assert summary(replies) == "scrubbed 1 layer, 1 frame, 3.0 GiB on 1 node: 1 damaged, 1 mended"
    assert is_sound(replies)
    assert lines(replies) == ["s1  damaged  x", "s1  mended   x"]
