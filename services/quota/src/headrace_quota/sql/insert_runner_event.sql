-- Something that happened to a runner.
INSERT INTO quota.runner_health (runner_id, gateway_id, event, device_type, detail, event_at)
VALUES (%(runner_id)s, %(gateway_id)s, %(event)s, %(device_type)s, %(detail)s, %(event_at)s)
