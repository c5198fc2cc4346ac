-- A gateway lives: its share of every limit, what counts of it, and the sum of that over all.
SELECT share, counted, total
FROM quota.renew_gateway(%(gateway_id)s, %(share)s, %(expire_s)s)
