-- A batch of a spool is in the ledger, up to here.
UPDATE quota.usage_spools
SET sequence = greatest(sequence, %(sequence)s), closed = closed OR %(closes)s
WHERE spool_id = %(spool_id)s
