"""The headrace command: local mesh supervisor and client."""

import os

# Read when gRPC is first imported. Its fork handlers crash about one in five of the processes that the supervisor
# starts before they become the program that they were started for.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
