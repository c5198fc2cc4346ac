-- The tenant's status, locked: concurrent creations of keys wait here, so that counting them stays true, and a
-- suspension waits too.
SELECT status FROM quota.tenants WHERE id = %(id)s FOR NO KEY UPDATE
