-- The content of a file, unless the tenant has it already.
INSERT INTO registry.artifact_files (tenant_id, sha256, size_bytes, segment_bytes)
VALUES (%(tenant_id)s, %(sha256)s, %(size_bytes)s, %(segment_bytes)s)
ON CONFLICT (tenant_id, sha256) DO NOTHING
