"""Measures a mesh, and what it is compared with, on one machine in one run. `python -m headrace_bench --help`."""
