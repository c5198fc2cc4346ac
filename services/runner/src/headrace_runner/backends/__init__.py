"""Backends load artefacts and run them. Each is a plug-in of the entry-point group `headrace.backends`."""
