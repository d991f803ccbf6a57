"""Sixfold beside PostgreSQL with six standbys: the same pgbench, one machine, one run. `make bench`.

    run.py          the comparison: starts both, runs every workload on each in turn, writes results.md
    volume.py       Sixfold alone, at growing sizes: start, commit, cold read, memory, disk

Nothing here judges a time; it is measured, shown and written down.
"""
