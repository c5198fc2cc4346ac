"""The headrace command: local mesh supervisor and client."""
