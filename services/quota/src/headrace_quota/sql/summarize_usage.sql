-- A tenant's usage by span, model and version.
SELECT
    date_trunc(%(span)s, hour, 'UTC') AS start_time, model, version,
    sum(calls)::bigint AS calls, sum(failed_calls)::bigint AS failed_calls,
    sum(input_bytes)::bigint AS input_bytes, sum(output_bytes)::bigint AS output_bytes,
    sum(prompt_tokens)::bigint AS prompt_tokens, sum(completion_tokens)::bigint AS completion_tokens,
    sum(device_ms) AS device_ms, sum(latency_ms_sum) AS latency_ms_sum, max(latency_ms_max) AS latency_ms_max
FROM quota.model_metrics_hourly
WHERE tenant_id = %(tenant_id)s
    AND hour >= %(start_time)s
    AND hour < %(end_time)s
    AND (%(model)s = '' OR model = %(model)s)
GROUP BY date_trunc(%(span)s, hour, 'UTC'), model, version
ORDER BY start_time, model, version
LIMIT %(limit)s
