-- Sets the status where it differs; no row when it doesn't, so that neither updated_at nor the feed moves for nothing.
UPDATE quota.tenants
SET status = %(status)s
WHERE id = %(id)s AND status <> %(status)s
RETURNING id, display_name, status, tier, metadata, isolation, created_at, updated_at
