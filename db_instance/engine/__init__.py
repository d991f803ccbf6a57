"""SQLite on the volume: statements in greenlets, pages through a VFS, commits as redo."""
