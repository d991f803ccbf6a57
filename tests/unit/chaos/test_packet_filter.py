"""The programs for the kernel's packet filter, run by a small interpreter in its place."""

from ipaddress import IPv4Address

import pytest

from tests.chaos.packet_filter import drop_all, drop_from, drop_some

DROP, PASS = 2, 0xFFFFFFFF
RANDOM = 0xFFFFF038
ONE, OTHER, THIRD = (IPv4Address(f"10.1.2.{last}") for last in (1, 2, 3))


def _verdict(bytecode: str, frame: bytes = b"", random: int = 0) -> int:
    length, *words = bytecode.split(",")
    program = [tuple(map(int, word.split())) for word in words]
    assert len(program) == int(length)
    at = accumulator = 0
    while True:
        code, if_true, if_false, operand = program[at]
        at += 1
        match code:
            case 0x20:
                here = frame[operand : operand + 4]
                accumulator = random if operand == RANDOM else int.from_bytes(here)
            case 0x28:
                accumulator = int.from_bytes(frame[operand : operand + 2])
            case 0x15:
                at += if_true if accumulator == operand else if_false
            case 0x35:
                at += if_true if accumulator >= operand else if_false
            case 0x06:
                return operand
            case _:
                raise AssertionError(f"unknown instruction {code:#x}")


def _frame(source: IPv4Address, kind: int = 0x0800) -> bytes:
    return bytes(12) + kind.to_bytes(2) + bytes(12) + source.packed + bytes(20)


def test_everything_is_dropped() -> None:
    assert _verdict(drop_all(), _frame(ONE)) == DROP


@pytest.mark.parametrize(
    ("random", "verdict"), [(0, DROP), (2**30 - 1, DROP), (2**30, PASS), (2**32 - 1, PASS)]
)
def test_a_quarter_is_dropped(random: int, verdict: int) -> None:
    assert _verdict(drop_some(0.25), random=random) == verdict


@pytest.mark.parametrize("sources", [[ONE], [ONE, OTHER], [OTHER, THIRD, ONE]])
def test_what_some_hosts_send_is_dropped_and_nothing_else(sources: list[IPv4Address]) -> None:
    for source in (ONE, OTHER, THIRD):
        assert _verdict(drop_from(sources), _frame(source)) == (DROP if source in sources else PASS)


def test_frames_that_are_no_ipv4_pass() -> None:
    assert _verdict(drop_from([ONE]), _frame(ONE, kind=0x0806)) == PASS
