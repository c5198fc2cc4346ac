-- All that a gateway held which has ended and whose records are all here.
SELECT quota.close_leases(%(gateway_id)s)
