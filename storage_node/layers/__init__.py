"""Layers: what a segment's log becomes. Immutable files that answer "page at LSN"."""
