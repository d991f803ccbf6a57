"""Every failure we expect. An AssertionError is not here: that one is our bug, and we stop.

The message says what was being done, then what was found: "read page 17 at lsn 4096: segment pg3/b
is complete only to 4090". No "failed to", no "error": the class says that. A class travels between
services by its name, so renaming one is a change of protocol.
"""


class VolumeError(Exception):
    """Base of everything a caller may handle. `retryable`: another segment, or later, may do better."""

    retryable: bool = False


class StaleEpoch(VolumeError):
    """The sender belongs to an older epoch: another writer has opened the volume since."""


class StaleTimeline(VolumeError):
    """The segment does not know the timeline of the sender's epoch yet: install it first."""

    retryable = True


class StaleMembership(VolumeError):
    """The sender knows an older membership of the group than the segment does: look it up again."""

    retryable = True


class NotYetComplete(VolumeError):
    """The segment lacks log below the LSN asked for. Another one may be further."""

    retryable = True


class LsnCollected(VolumeError):
    """The page version asked for is older than what is retained and is gone."""


class CorruptRecord(VolumeError):
    """Bytes of the log did not match their checksum. The copy is dropped and repaired from its peers."""

    retryable = True


class CorruptPage(VolumeError):
    """A page or layer did not match its checksum. It is refused, never served."""

    retryable = True


class UnknownFormat(VolumeError):
    """A file or message carries a version that this release does not know."""


class UnknownSegment(VolumeError):
    """The node does not host that segment."""

    retryable = True


class SegmentFailed(VolumeError):
    """The segment's disk failed or is full: it refuses everything until it is mended."""

    retryable = True


class PeerUnavailable(VolumeError):
    """The other process cannot be reached, or went away in the middle."""

    retryable = True


class DeadlineExceeded(VolumeError):
    """The answer did not come in time; whether the request was carried out is unknown."""

    retryable = True


class InvalidRequest(VolumeError):
    """The message makes no sense: truncated, oversized, or a field out of range."""


class QuorumLost(VolumeError):
    """Too few segments of a protection group answer to go on."""

    retryable = True


class VolumeBusy(VolumeError):
    """Refused for now: a bound of memory or log is reached."""

    retryable = True


class LeaseExpired(VolumeError):
    """The instance is cut off and cannot tell whether it is still the writer: what it read might be outdated."""


class TransactionTooLarge(VolumeError):
    """A transaction needs more LSNs than the allocation limit has."""


class OutcomeUnknown(VolumeError):
    """A commit was not acknowledged in time: it may become durable yet, or may not."""


class Internal(VolumeError):
    """The other process met a bug of its own; its log has the traceback."""


def error_by_name(name: str) -> type[VolumeError] | None:
    """The class a peer's error travels as, or None for one that this release does not know."""
    found = globals().get(name)
    if isinstance(found, type) and issubclass(found, VolumeError):
        return found
    return None


def told_error(text: str) -> VolumeError:
    """The error that a peer told as "ClassName: message"; of a class that we do not know, Internal."""
    name, _, message = text.partition(": ")
    kind = error_by_name(name)
    return kind(message) if kind is not None else Internal(text)
