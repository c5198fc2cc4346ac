-- Takes back and grants a slice of a calendar window; no row where no such limit holds.
SELECT granted, taken
FROM quota.lease_calendar(
    %(gateway_id)s, %(tenant_id)s, %(model)s, %(resource)s, %(time_window)s, %(window_start)s,
    %(wanted)s, %(waiting)s, %(returned)s
)
