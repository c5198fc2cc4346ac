-- The end of a tenant's chain, for who appends to it.
INSERT INTO quota.audit_chains AS chain (tenant_id, sequence, sha256)
VALUES (%(tenant_id)s, 0, decode(repeat('00', 32), 'hex'))
ON CONFLICT (tenant_id) DO UPDATE SET sequence = chain.sequence
RETURNING chain.sequence, chain.sha256
