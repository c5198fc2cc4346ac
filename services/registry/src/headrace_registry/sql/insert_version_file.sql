-- One file of a new version.
INSERT INTO registry.version_files (tenant_id, version_uid, path, sha256)
VALUES (%(tenant_id)s, %(uid)s, %(path)s, %(sha256)s)
