-- The number after the highest that was ever given; the model's row is locked by then.
SELECT coalesce(max(version), 0) + 1 AS version
FROM registry.model_versions
WHERE tenant_id = %(tenant_id)s AND model = %(model)s
