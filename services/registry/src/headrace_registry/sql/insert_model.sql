-- A new model; no row where the name is taken. Waits for a transaction that is inserting the same name.
INSERT INTO registry.models (tenant_id, name, description, metadata)
VALUES (%(tenant_id)s, %(name)s, %(description)s, %(metadata)s)
ON CONFLICT (tenant_id, name) DO NOTHING
RETURNING tenant_id, name, description, metadata, created_at, 0::bigint AS latest_version
