"""Calls that are answered in parts, as the model makes them."""
