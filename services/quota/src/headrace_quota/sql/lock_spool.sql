-- How far a spool is, for the batch that holds the row until it commits; a spool that is new begins at nothing.
INSERT INTO quota.usage_spools AS spool (spool_id, gateway_id)
VALUES (%(spool_id)s, %(gateway_id)s)
ON CONFLICT (spool_id) DO UPDATE SET gateway_id = spool.gateway_id
RETURNING spool.sequence
