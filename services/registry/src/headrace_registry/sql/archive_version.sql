-- Takes a version out of service; no row where it is absent or archived already.
UPDATE registry.model_versions
SET state = 'ARCHIVED', archived_at = now()
WHERE tenant_id = %(tenant_id)s AND model = %(model)s AND version = %(version)s AND state = 'READY'
