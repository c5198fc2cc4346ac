-- Makes a tenant unless the id is taken; no row then, and the tenant that is there stays as it is.
INSERT INTO quota.tenants (id, display_name, tier, metadata, isolation)
VALUES (%(id)s, %(display_name)s, %(tier)s, %(metadata)s, %(isolation)s)
ON CONFLICT (id) DO NOTHING
RETURNING id, display_name, status, tier, metadata, isolation, created_at, updated_at
