"""Brings models into memory and decides which ones may stay."""
