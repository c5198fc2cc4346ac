-- Makes registrations in one model take turns, so that exactly one of several uploads of a version wins.
SELECT name
FROM registry.models
WHERE tenant_id = %(tenant_id)s AND name = %(model)s
FOR UPDATE
