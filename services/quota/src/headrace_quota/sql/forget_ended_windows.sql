-- Removes the counters of windows that ended long ago.
SELECT quota.reset_expired_quotas() AS gone
