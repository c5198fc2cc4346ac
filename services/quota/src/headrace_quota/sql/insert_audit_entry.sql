-- One more entry of a chain.
INSERT INTO quota.audit_log (
    tenant_id, sequence, event_at, actor, method, resource, request_json, outcome, request_id, gateway_id,
    previous_sha256, sha256
)
VALUES (
    %(tenant_id)s, %(sequence)s, %(event_at)s, %(actor)s, %(method)s, %(resource)s, %(request_json)s, %(outcome)s,
    %(request_id)s, %(gateway_id)s, %(previous_sha256)s, %(sha256)s
)
