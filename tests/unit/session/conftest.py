from tests.fakes.sql_server import server_settings, sql

__all__ = ["server_settings", "sql"]
