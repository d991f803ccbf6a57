"""accept-loss: an operator gives up what only lost copies of a protection group held."""

import re
from collections.abc import Callable

from sixfold.control_client import ControlClient
from sixfold.errors import CommandFailed
from sixfold.nodes import refused_plainly
from sixfold.status import without_read_quorum
from volume.quorum import COPIES


def group_of(text: str) -> int:
    """3 of "pg3" or "3"."""
    match = re.fullmatch(r"(?:pg)?(\d+)", text)
    if match is None:
        raise CommandFailed(f"{text!r} is not a protection group such as pg3")
    return int(match[1])


def accept_loss(
    group: int, control_address: str, say: Callable[[str], None], ask: Callable[[str], str] | None
) -> None:
    """`ask`: for the group's name, which has to be typed; None: it is not asked for."""
    name = f"pg{group}"
    with ControlClient(control_address) as control:
        with refused_plainly():
            found = control.status()
        lost = next((each for each in found["without_read_quorum"] if each["group"] == group), None)
        if lost is None:
            raise CommandFailed(f"{name} has its read quorum, or is no group of this volume: nothing is lost")
        if not lost["copies"]:
            raise CommandFailed(f"no copy of {name} is there: there is nothing that it could be rebuilt from")
        say(without_read_quorum({**lost, "loss_accepted": False}))
        say(
            f"{name} is rebuilt from {lost['copies']} of {COPIES} copies: what was committed, and only the others"
            " held, is lost. Transactions may be missing that were acknowledged, and others may be there in part."
        )
        if ask is not None and ask(f"Type {name} to accept that") != name:
            raise CommandFailed("nothing was done")
        with refused_plainly():
            control.accept_loss(group)
    say(f"{name} is rebuilt from what is left; `sixfold status` shows how far that is.")
