-- Takes a plan away; its limits are gone before.
DELETE FROM quota.plans WHERE name = %(name)s
