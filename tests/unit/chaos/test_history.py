"""Which errors leave a transaction in doubt, and what is counted."""

import psycopg
import pytest
from psycopg import errors

from tests.chaos.history import Sample, figures, longest_silence_s, outcome_of
from tests.checkers.history import Outcome

OK, FAILED, UNKNOWN = Outcome.OK, Outcome.FAILED, Outcome.UNKNOWN


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (psycopg.OperationalError("the connection is lost"), UNKNOWN),
        (errors.TransactionResolutionUnknown("08007"), UNKNOWN),
        (errors.QueryCanceled("57014"), UNKNOWN),
        (errors.CrashShutdown("57P02"), UNKNOWN),
        (errors.SerializationFailure("40001"), FAILED),
        (errors.ReadOnlySqlTransaction("25006"), FAILED),
    ],
)
def test_only_a_commit_can_be_in_doubt(error: psycopg.Error, outcome: Outcome) -> None:
    assert outcome_of(error, committing=True) is outcome
    assert outcome_of(error, committing=False) is FAILED


def test_figures_count_outcomes_and_time_what_was_done() -> None:
    samples = [Sample("bank", 0.0, 0.1 * n, OK) for n in range(1, 11)]
    samples += [Sample("bank", 0.0, 9.0, FAILED), Sample("bank", 0.0, 9.0, UNKNOWN)]
    found = figures(samples)
    assert (found.ok, found.failed, found.unknown) == (10, 1, 1)
    assert found.p50_s == pytest.approx(0.6)
    assert found.p99_s == found.longest_s == pytest.approx(1.0)


def test_the_longest_silence_may_be_at_an_end() -> None:
    samples = [Sample("bank", 0.0, end, OK) for end in (2.0, 3.0)]
    assert longest_silence_s(samples, 0.0, 4.0) == 2.0
    assert longest_silence_s(samples, 0.0, 7.0) == 4.0
    assert longest_silence_s([], 0.0, 5.0) == 5.0


def test_what_the_clients_rest_is_no_silence() -> None:
    samples = [Sample("bank", 0.0, end, OK) for end in (2.0, 9.0)]
    assert longest_silence_s(samples, 0.0, 10.0, [(3.0, 8.0)]) == 2.0
