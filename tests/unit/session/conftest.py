from tests.harness.sql_server import commit_timeout_s, server_settings, sql

__all__ = ["commit_timeout_s", "server_settings", "sql"]
