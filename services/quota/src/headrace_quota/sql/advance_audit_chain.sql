-- The new end of a tenant's chain.
UPDATE quota.audit_chains SET sequence = %(sequence)s, sha256 = %(sha256)s WHERE tenant_id = %(tenant_id)s
