"""Artefact bytes on this host: fetched once, checked always, kept by digest."""
