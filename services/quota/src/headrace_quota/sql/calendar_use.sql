-- How each calendar quota of a tenant stands in the window of an instant.
SELECT
    holds.*,
    quota.window_start(holds.time_window, %(at)s) AS window_start,
    quota.window_end(holds.time_window, %(at)s) AS window_end,
    quota.window_usage(holds.tenant_id, holds.model, holds.resource, holds.time_window, %(at)s) AS used,
    quota.held_usage(
        holds.tenant_id, holds.model, holds.resource, holds.time_window, quota.window_start(holds.time_window, %(at)s)
    ) AS held
FROM quota.effective_limits AS holds
WHERE holds.tenant_id = %(tenant_id)s AND holds.time_window IN ('HOUR', 'DAY', 'MONTH')
