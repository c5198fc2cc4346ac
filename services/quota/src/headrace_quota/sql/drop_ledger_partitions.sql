-- The partitions of days longer ago than the retention.
SELECT quota.drop_ledger_partitions(%(retention_days)s) AS partitions
