"""The headrace command: local mesh supervisor and client."""

# First, because it settles how gRPC behaves in a process that starts others.
import headrace_common as _settled_first

__all__: list[str] = []
del _settled_first
