"""HOST:PORT, as it is written on the command line and in cluster.json."""

import argparse
from typing import Final

PORT_MAX: Final = 65_535


def host_and_port(address: str) -> tuple[str, int]:
    """The brackets of an IPv6 address are not part of it. Raises ValueError."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > PORT_MAX:
        raise ValueError(f"{address!r} is not HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)


def address_argument(text: str) -> str:
    """For argparse: an address as it was given, once it is known to be one."""
    try:
        host_and_port(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text
