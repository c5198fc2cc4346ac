-- Adds the wanted limits that the plan doesn't have yet.
INSERT INTO quota.plan_limits (plan, model, resource, time_window, amount, period_ms, burst, algorithm)
SELECT %(name)s, model, resource, time_window, amount, period_ms, burst, algorithm
FROM jsonb_to_recordset(%(limits)s) AS wanted (
    model text, resource text, time_window text, amount bigint, period_ms integer, burst bigint, algorithm text
)
ON CONFLICT ON CONSTRAINT plan_limits_pkey DO NOTHING
