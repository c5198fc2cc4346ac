-- Whether the tenant has a model of this name.
SELECT 1 AS found
FROM registry.models
WHERE tenant_id = %(tenant_id)s AND name = %(model)s
