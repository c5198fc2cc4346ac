"""What two or more Headrace services share: errors, settings, gRPC and storage. No domain concept lives here."""
