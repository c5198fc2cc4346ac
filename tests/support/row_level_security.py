"""What a database's catalogue says of the walls between tenants in one service's schema."""

from __future__ import annotations

from collections.abc import Mapping

import psycopg

_TABLES = """
SELECT c.relname, c.relrowsecurity AND c.relforcerowsecurity,
    CASE WHEN c.relname = 'tenants' THEN 'id'
        WHEN EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'tenant_id') THEN 'tenant_id'
        ELSE '' END
FROM pg_class c
WHERE c.relnamespace = %(schema)s::regnamespace AND c.relkind IN ('r', 'p', 'm', 'f') AND NOT c.relispartition
    AND c.relname <> 'schema_version'
ORDER BY 1
"""
_POLICIES = """
SELECT p.tablename, p.policyname, coalesce(p.qual, 'true'), coalesce(p.with_check, p.qual, 'true'), p.cmd
FROM pg_policies p WHERE p.schemaname = %(schema)s AND p.permissive = 'PERMISSIVE'
"""
# Whoever may touch a partition by its own name sees past the policies of its parent; a view sees with its owner's eyes.
_WAYS_AROUND = """
SELECT c.relname || ' is a partition that the service may touch' FROM pg_class c
WHERE c.relnamespace = %(schema)s::regnamespace AND c.relispartition AND c.relkind IN ('r', 'p')
    AND has_table_privilege('headrace_' || %(schema)s, c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE')
UNION ALL
SELECT c.relname || ' is a view that sees as its owner does' FROM pg_class c
WHERE c.relnamespace = %(schema)s::regnamespace AND c.relkind = 'v'
    AND NOT coalesce('security_invoker=true' = ANY (c.reloptions), false)
UNION ALL
SELECT r.rolname || ' sees past policies' FROM pg_roles r
WHERE r.rolname = 'headrace_' || %(schema)s AND (r.rolsuper OR r.rolbypassrls)
UNION ALL
SELECT c.relname || ' belongs to the service' FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner
WHERE c.relnamespace = %(schema)s::regnamespace AND r.rolname = 'headrace_' || %(schema)s
"""


def tenant_tables(database_url: str, schema: str) -> Mapping[str, str]:
    """Tables whose rows belong to tenants, each with the column that says to which."""
    with psycopg.connect(database_url) as superuser:
        rows = superuser.execute(_TABLES, {"schema": schema}).fetchall()
    return {table: column for table, _, column in rows if column}


def holes(database_url: str, schema: str, *, shared: frozenset[str] = frozenset()) -> list[str]:
    """Every way by which the service's role could see or write a row without being in its tenant's scope.

    Args:
        database_url: The superuser's.
        schema: The service's, whose role is `headrace_<schema>`.
        shared: Policies `table.policy` for reading rows that belong to no tenant.
    """
    with psycopg.connect(database_url) as superuser:
        tables = superuser.execute(_TABLES, {"schema": schema}).fetchall()
        policies = superuser.execute(_POLICIES, {"schema": schema}).fetchall()
        found = [str(row[0]) for row in superuser.execute(_WAYS_AROUND, {"schema": schema}).fetchall()]
    found += [f"{table} has no row-level security that its owner obeys" for table, walled, _ in tables if not walled]
    for table, _, column in tables:
        own = [policy for policy in policies if policy[0] == table]
        if not own:
            found.append(f"{table} has no policy")
        allowed = {f"{schema}.in_scope('*'::text)", *((f"{schema}.in_scope({column})",) if column else ())}
        for _, policy, reads, writes, command in own:
            named = f"{table}.{policy}"
            if not column and named in shared and command == "SELECT":
                continue
            if {reads, writes} - allowed:
                found.append(f"{named} lets through more than its tenant's scope")
    return found
