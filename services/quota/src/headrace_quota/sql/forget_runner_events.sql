-- Events longer ago than the ledger's retention.
DELETE FROM quota.runner_health WHERE event_at < now() - make_interval(days => %(retention_days)s)
