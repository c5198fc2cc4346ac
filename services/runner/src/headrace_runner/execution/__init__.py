"""Executes calls on loaded models, off the event loop and within bounds."""
