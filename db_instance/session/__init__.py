"""One client's session: its transaction, statements, settings; which protocol it speaks is not known here.

Well, almost: it answers in PostgreSQL's messages (wire/postgres/backend.py) and owns no socket.
"""
