"""Client of Headrace, the multi-tenant inference mesh."""
