"""Programs of the kernel's packet filter, as `tc filter ... bpf da bytecode` takes them. Pure.

A program is a list of (code, jump if true, jump if false, operand). It sees a frame from its Ethernet header
on, and its answer is what becomes of the frame: dropped, or left to the next filter.
"""

from collections.abc import Collection
from ipaddress import IPv4Address
from typing import Final

Instruction = tuple[int, int, int, int]

_DROP: Final = 2
_PASS: Final = 0xFFFFFFFF
_LOAD_WORD, _LOAD_HALF, _JUMP_EQUAL, _JUMP_AT_LEAST, _RETURN = 0x20, 0x28, 0x15, 0x35, 0x06
_TYPE_OFFSET, _SOURCE_OFFSET = 12, 26
_IPV4: Final = 0x0800
_RANDOM: Final = 0xFFFFF038
"""Not a place in the frame: a word by dice."""


def drop_all() -> str:
    return _bytecode([(_RETURN, 0, 0, _DROP)])


def drop_some(probability: float) -> str:
    """Each frame for itself, by the kernel's dice."""
    threshold = min(int(probability * 2**32), 2**32 - 1)
    return _bytecode(
        [
            (_LOAD_WORD, 0, 0, _RANDOM),
            (_JUMP_AT_LEAST, 1, 0, threshold),
            (_RETURN, 0, 0, _DROP),
            (_RETURN, 0, 0, _PASS),
        ]
    )


def drop_from(sources: Collection[IPv4Address]) -> str:
    """What these hosts have sent."""
    program: list[Instruction] = [
        (_LOAD_HALF, 0, 0, _TYPE_OFFSET),
        (_JUMP_EQUAL, 0, len(sources) + 1, _IPV4),
        (_LOAD_WORD, 0, 0, _SOURCE_OFFSET),
    ]
    for place, source in enumerate(sources):
        program.append((_JUMP_EQUAL, len(sources) - place, 0, int(source)))
    return _bytecode([*program, (_RETURN, 0, 0, _PASS), (_RETURN, 0, 0, _DROP)])


def _bytecode(program: list[Instruction]) -> str:
    return ",".join([str(len(program)), *(" ".join(map(str, each)) for each in program)])
