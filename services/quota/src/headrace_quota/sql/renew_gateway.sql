-- A gateway lives: its share of every limit, and the sum of all shares.
SELECT share, total
FROM quota.renew_gateway(%(gateway_id)s, %(share)s, %(expire_s)s)
