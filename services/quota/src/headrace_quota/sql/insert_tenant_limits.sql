-- Adds the wanted limits that the tenant doesn't have yet.
INSERT INTO quota.tenant_quotas (tenant_id, model, resource, time_window, amount, period_ms, burst, algorithm)
SELECT %(tenant_id)s, model, resource, time_window, amount, period_ms, burst, algorithm
FROM jsonb_to_recordset(%(limits)s) AS wanted (
    model text, resource text, time_window text, amount bigint, period_ms integer, burst bigint, algorithm text
)
ON CONFLICT ON CONSTRAINT tenant_quotas_pkey DO NOTHING
