"""One client's session: its transaction, statements and settings, and how its failures are told.

It answers in PostgreSQL's messages (wire/postgres/backend.py) and owns no socket.
"""
