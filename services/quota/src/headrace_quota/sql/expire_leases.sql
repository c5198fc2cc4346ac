-- Gives back the slices of gateways that were not seen for long.
SELECT quota.expire_leases(%(expire_s)s) AS expired
