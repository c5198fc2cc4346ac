"""What two or more Headrace services share: errors, settings, gRPC and storage. No domain concept lives here."""

import os

# Read when gRPC is first imported. Its fork handlers run in every process that the event loop starts and crash about
# one in five before it becomes the program that it was started for; nothing that we start goes on using gRPC's state.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
