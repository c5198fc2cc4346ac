"""Tenants, API keys and the principal feed of Headrace."""
