"""What two or more Headrace services share: errors, settings, gRPC and storage runtimes. No domain concept lives here."""
