-- One model with its highest version that is READY.
SELECT
    model.tenant_id,
    model.name,
    model.description,
    model.metadata,
    model.created_at,
    coalesce((
        SELECT ready.version
        FROM registry.model_versions AS ready
        WHERE ready.tenant_id = model.tenant_id AND ready.model = model.name AND ready.state = 'READY'
        ORDER BY ready.version DESC
        LIMIT 1
    ), 0) AS latest_version
FROM registry.models AS model
WHERE model.tenant_id = %(tenant_id)s AND model.name = %(name)s
