"""Loads models and answers inference calls for Headrace gateways."""
