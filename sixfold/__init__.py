"""The command line, and the launcher of a local cluster."""
