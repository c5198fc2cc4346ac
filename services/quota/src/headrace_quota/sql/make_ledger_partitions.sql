-- The partitions of today and three days to come.
SELECT quota.make_ledger_partitions(3) AS partitions
