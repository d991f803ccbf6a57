"""Addresses are told from what is none."""

import argparse

import pytest

from runtime.addresses import address_argument, host_and_port


@pytest.mark.parametrize(
    ("address", "found"),
    [("127.0.0.1:5440", ("127.0.0.1", 5440)), ("db.example:0", ("db.example", 0)), ("[::1]:65535", ("::1", 65535))],
)  # fmt: skip
def test_an_address(address: str, found: tuple[str, int]) -> None:
    assert host_and_port(address) == found
    assert address_argument(address) == address


@pytest.mark.parametrize(
    "text", ["", "localhost", "localhost:", ":5440", "localhost:http", "a:-1", "a:65536", "a:1.5"]
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="is not HOST:PORT"):
        host_and_port(text)
    with pytest.raises(argparse.ArgumentTypeError, match="is not HOST:PORT"):
        address_argument(text)
