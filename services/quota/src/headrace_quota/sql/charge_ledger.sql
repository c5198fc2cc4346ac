-- What the staged rows use of calendar quotas is no longer held but used. In an order that all batches share, so that
-- none waits for another in a circle; before sum_ledger.sql, because a new counter starts with what was summed up.
SELECT
    quota.increment_quota_usage(used.tenant_id, used.model, used.resource, used.amount, used.hour) AS counted,
    quota.charge_lease(%(gateway_id)s, used.tenant_id, used.model, used.resource, used.amount, used.hour) AS charged
FROM (
    SELECT batch.tenant_id, batch.model, what.resource, what.amount, batch.hour
    FROM (
        SELECT
            tenant_id, model, date_trunc('hour', admitted_at, 'UTC') AS hour,
            sum(calls)::bigint AS calls,
            sum(prompt_tokens + completion_tokens)::bigint AS tokens,
            sum(input_bytes)::bigint AS input_bytes,
            round(sum(device_ms)::numeric)::bigint AS device_ms
        FROM ledger_batch
        GROUP BY tenant_id, model, date_trunc('hour', admitted_at, 'UTC')
    ) AS batch
    CROSS JOIN LATERAL (
        VALUES ('REQUESTS', batch.calls), ('TOKENS', batch.tokens), ('INPUT_BYTES', batch.input_bytes), ('DEVICE_MS', batch.device_ms)
    ) AS what (resource, amount)
    WHERE what.amount > 0
    ORDER BY batch.tenant_id, what.resource, batch.hour, batch.model
) AS used
