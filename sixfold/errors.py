"""How a command fails: one line for a human, exit status 1."""


class CommandFailed(Exception):
    """The command was understood and could not be done. The message is all that the user sees."""
