"""Leases: permits of limits that gateways hold, so that they needn't ask for each call."""
