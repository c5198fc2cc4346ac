-- The staged rows in the hourly sums.
INSERT INTO quota.model_metrics_hourly AS hourly (
    tenant_id, hour, model, version, calls, failed_calls, input_bytes, output_bytes, prompt_tokens, completion_tokens,
    device_ms, latency_ms_sum, latency_ms_max
)
SELECT
    tenant_id, date_trunc('hour', admitted_at, 'UTC') AS hour, model, version,
    sum(calls), sum(CASE WHEN status = 'OK' THEN 0 ELSE calls END), sum(input_bytes), sum(output_bytes),
    sum(prompt_tokens), sum(completion_tokens), sum(device_ms),
    sum(total_us::double precision * calls) / 1000, max(total_us)::double precision / 1000
FROM ledger_batch
GROUP BY tenant_id, date_trunc('hour', admitted_at, 'UTC'), model, version
ORDER BY tenant_id, hour, model, version
ON CONFLICT ON CONSTRAINT model_metrics_hourly_pkey DO UPDATE SET
    calls = hourly.calls + excluded.calls,
    failed_calls = hourly.failed_calls + excluded.failed_calls,
    input_bytes = hourly.input_bytes + excluded.input_bytes,
    output_bytes = hourly.output_bytes + excluded.output_bytes,
    prompt_tokens = hourly.prompt_tokens + excluded.prompt_tokens,
    completion_tokens = hourly.completion_tokens + excluded.completion_tokens,
    device_ms = hourly.device_ms + excluded.device_ms,
    latency_ms_sum = hourly.latency_ms_sum + excluded.latency_ms_sum,
    latency_ms_max = greatest(hourly.latency_ms_max, excluded.latency_ms_max)
