import pytest

from db_instance.session.errors import SessionError
from db_instance.session.settings import Settings


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("statement_timeout", "5000", "5s"),
        ("statement_timeout", "1min", "1min"),
        ("statement_timeout", "90s", "90s"),
        ("statement_timeout", "0", "0"),
        ("STATEMENT_TIMEOUT", "250ms", "250ms"),
        ("client_encoding", "utf-8", "UTF8"),
        ("timezone", "Etc/UTC", "Etc/UTC"),
        ("timezone", "+00:00", "+00:00"),
        ("datestyle", "ISO", "ISO, MDY"),
        ("default_transaction_isolation", "Repeatable  Read", "repeatable read"),
        ("default_transaction_read_only", "true", "on"),
        ("app.user", "7", "7"),
    ],
)
def test_values_are_shown_as_postgresql_does(name: str, value: str, shown: str) -> None:
    settings = Settings()
    settings.set(name, value)
    assert settings.get(name) == shown


@pytest.mark.parametrize(
    ("name", "value", "sqlstate"),
    [
        ("nonsense", "1", "42704"),
        ("statement_timeout", "soon", "22023"),
        ("client_encoding", "latin1", "0A000"),
        ("timezone", "Nowhere/City", "22023"),
        ("timezone", "Europe/Berlin", "0A000"),
        ("timezone", "-05:00", "0A000"),
        ("server_version", "99", "55P02"),
        ("default_transaction_isolation", "chaos", "22023"),
        ("standard_conforming_strings", "off", "22023"),
    ],
)
def test_what_cannot_be_is_refused(name: str, value: str, sqlstate: str) -> None:
    with pytest.raises(SessionError) as error:
        Settings().set(name, value)
    assert error.value.sqlstate == sqlstate


def test_durations_in_seconds() -> None:
    settings = Settings({"lock_timeout": "1min"})
    assert settings.seconds("lock_timeout") == 60
    settings.set("lock_timeout", "10")
    assert settings.seconds("lock_timeout") == 0.01
    settings.set("lock_timeout", "0")
    assert settings.seconds("lock_timeout") is None
    settings.set("lock_timeout", None)
    assert settings.seconds("lock_timeout") == 60


def test_a_transaction_takes_its_settings_with_it() -> None:
    settings = Settings()
    settings.set("work_mem", "1MB")
    settings.end(committed=False)
    assert settings.get("work_mem") == "4MB"
    settings.set("work_mem", "1MB")
    settings.set("jit", "on", local=True)
    assert settings.get("jit") == "on"
    settings.end(committed=True)
    assert settings.get("work_mem") == "1MB"
    assert settings.get("jit") == "off"
    settings.reset_all()
    settings.end(committed=True)
    assert settings.get("work_mem") == "4MB"


def test_a_savepoint_is_gone_back_to_any_number_of_times() -> None:
    settings = Settings()
    settings.set("app.user", "1")
    settings.set("work_mem", "1MB", local=True)
    kept = settings.kept()
    for value in ("2", "3"):
        settings.set("app.user", value)
        settings.set("work_mem", "2MB")
        settings.set("statement_timeout", "5s", local=True)
        settings.go_back_to(kept)
        found = [settings.get(name) for name in ("app.user", "work_mem", "statement_timeout")]
        assert found == ["1", "1MB", "0"]
    settings.end(committed=True)
    assert settings.get("app.user") == "1"
    assert settings.get("work_mem") == Settings().get("work_mem")


def test_a_driver_that_sends_the_zone_of_its_machine_is_told_which_one_counts() -> None:
    settings = Settings()
    settings.start_with({"TimeZone": "Europe/Berlin", "application_name": "x"})
    assert (settings.get("timezone"), settings.get("application_name")) == ("UTC", "x")
    with pytest.raises(SessionError, match="Nowhere"):
        settings.start_with({"TimeZone": "Nowhere/City"})
