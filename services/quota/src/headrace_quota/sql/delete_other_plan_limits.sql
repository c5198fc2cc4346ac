-- Takes away the limits of a plan that are not among the wanted ones, just as they are wanted.
DELETE FROM quota.plan_limits AS held
WHERE held.plan = %(name)s
    AND NOT EXISTS (
        SELECT FROM jsonb_to_recordset(%(limits)s) AS wanted (
            model text, resource text, time_window text, amount bigint, period_ms integer, burst bigint, algorithm text
        )
        WHERE (wanted.model, wanted.resource, wanted.time_window, wanted.amount, wanted.period_ms, wanted.burst, wanted.algorithm)
            IS NOT DISTINCT FROM (held.model, held.resource, held.time_window, held.amount, held.period_ms, held.burst, held.algorithm)
    )
