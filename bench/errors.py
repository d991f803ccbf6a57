"""How a measurement fails: one line for a human."""


class BenchFailed(Exception):
    """Something that is needed did not work. The message is all that the user sees."""
