-- How near each tenant is to its limits in the windows of an instant: of each tenant the calendar quota with the
-- highest part used, the tenants nearest to a limit first; and how many tenants have limits, and have used one up.
-- Without any calendar quota in use: one row, with the counts alone.
WITH used AS (
    SELECT
        holds.*,
        quota.window_usage(holds.tenant_id, holds.model, holds.resource, holds.time_window, %(at)s) AS used
    FROM quota.effective_limits AS holds
    WHERE holds.time_window IN ('HOUR', 'DAY', 'MONTH')
),
nearest AS (
    SELECT DISTINCT ON (tenant_id) *
    FROM used
    WHERE used > 0
    ORDER BY tenant_id, used::numeric / amount DESC, model, resource, time_window
),
counts AS (
    SELECT
        (SELECT count(DISTINCT tenant_id) FROM quota.effective_limits) AS tenants_limited,
        (SELECT count(DISTINCT tenant_id) FROM used WHERE used >= amount) AS tenants_exhausted
)
SELECT
    counts.*,
    nearest.*,
    quota.window_start(nearest.time_window, %(at)s) AS window_start,
    quota.window_end(nearest.time_window, %(at)s) AS window_end,
    quota.held_usage(
        nearest.tenant_id, nearest.model, nearest.resource, nearest.time_window,
        quota.window_start(nearest.time_window, %(at)s)
    ) AS held
FROM counts
LEFT JOIN nearest ON true
ORDER BY nearest.used::numeric / nearest.amount DESC NULLS LAST, nearest.tenant_id
LIMIT %(limit)s
