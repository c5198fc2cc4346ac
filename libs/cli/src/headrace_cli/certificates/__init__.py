"""A development authority for one mesh, and the certificates that it gives out."""
