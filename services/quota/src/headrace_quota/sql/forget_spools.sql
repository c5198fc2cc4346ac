-- Spools that ended long ago, and those that nothing was heard of for as long as rows are kept.
DELETE FROM quota.usage_spools
WHERE (closed AND updated_at < now() - make_interval(days => 7))
    OR updated_at < now() - make_interval(days => %(retention_days)s)
