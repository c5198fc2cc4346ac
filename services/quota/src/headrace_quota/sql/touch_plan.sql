-- Stamps a plan whose limits changed.
UPDATE quota.plans SET updated_at = now() WHERE name = %(name)s
