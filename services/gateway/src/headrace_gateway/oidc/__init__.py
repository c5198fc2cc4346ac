"""Callers who sign in with a token of an OpenID Connect issuer."""
