"""Tables with rows of tenants hide those of others from the service's role; which tables, the database itself says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import LiteralString

import psycopg
import pytest
from psycopg import errors, sql

from headrace_common.postgres import service_conninfo
from support.quota import QuotaClient
from support.row_level_security import holes, tenant_tables

SHARED = frozenset(("plans.plans_own", "plan_limits.plan_limits_own"))
"""A tenant sees the plan that it is on."""
PLANTED: Mapping[str, LiteralString] = {
    "tenants": "(id, display_name) VALUES (%(tenant)s, 'x')",
    "api_keys": "(tenant_id, id, roles, key_sha256, prefix) VALUES (%(tenant)s, gen_random_uuid(), '{user}',"
    " sha256(convert_to(%(tenant)s::text, 'UTF8')), 'hr_12345')",
    "principal_changes": "(tenant_id, revision) VALUES (%(tenant)s, 1000000 + length(%(tenant)s))",
    "tenant_quotas": "(tenant_id, resource, time_window, amount) VALUES (%(tenant)s, 'REQUESTS', 'DAY', 5)",
    "quota_counters": "(tenant_id, model, resource, time_window, window_start, window_end, used)"
    " VALUES (%(tenant)s, '', 'REQUESTS', 'DAY', '2026-01-01Z', '2026-01-02Z', 1)",
    "calendar_leases": "(tenant_id, gateway_id, model, resource, time_window, window_start, held)"
    " VALUES (%(tenant)s, 'gateway', '', 'REQUESTS', 'DAY', '2026-01-01Z', 1)",
    "audit_chains": "(tenant_id, sequence, sha256) VALUES (%(tenant)s, 1, sha256('x'))",
    "audit_log": "(tenant_id, sequence, event_at, actor, method, resource, request_json, outcome, request_id,"
    " gateway_id, previous_sha256, sha256)"
    " VALUES (%(tenant)s, 1, now(), 'key:k', '/s/M', '', '{}', 'OK', 'r', 'g', sha256('x'), sha256('y'))",
    "inference_requests": "(tenant_id, id, admitted_at, ended_at, subject, request_id, kind, model, version, runner_id,"
    " device_type, status, error_reason, total_us, queue_us, execution_us, input_bytes, output_bytes, prompt_tokens,"
    " completion_tokens, device_ms, attempts, calls) VALUES (%(tenant)s, gen_random_uuid(), now(), now(), 'key:k', 'r',"
    " 'unary', 'm', '1', '', 'cpu', 'OK', '', 1, 0, 1, 1, 1, 0, 0, 1, 1, 1)",
    "model_metrics_hourly": "(tenant_id, hour, model, version, calls, failed_calls, input_bytes, output_bytes,"
    " prompt_tokens, completion_tokens, device_ms, latency_ms_sum, latency_ms_max)"
    " VALUES (%(tenant)s, '2026-01-01Z', 'm', '1', 1, 0, 1, 1, 0, 0, 1, 1, 1)",
}
"""What a row of each is made with; a new table of tenants needs one."""


def planting(table: str) -> sql.Composed:
    return sql.SQL("INSERT INTO quota.{} ").format(sql.Identifier(table)) + sql.SQL(PLANTED[table])


def rows_of(connection: psycopg.Connection, table: str, column: str) -> set[str]:
    """The tenants whose rows are seen."""
    query = sql.SQL("SELECT DISTINCT {} FROM quota.{}").format(sql.Identifier(column), sql.Identifier(table))
    return {str(row[0]) for row in connection.execute(query)}


def test_the_catalogue_has_no_way_around_a_tenants_scope(quota_database_url: str) -> None:
    assert holes(quota_database_url, "quota", shared=SHARED) == []


def test_a_table_without_a_wall_and_a_wall_with_a_hole_are_found(quota_database_url: str) -> None:
    with psycopg.connect(quota_database_url) as owner:
        owner.execute("CREATE TABLE quota.forgotten (tenant_id text)")
        owner.execute("CREATE POLICY wide ON quota.api_keys FOR SELECT USING (true)")
        owner.execute("GRANT SELECT ON quota.inference_requests_other TO headrace_quota")
        owner.execute("CREATE VIEW quota.peep AS SELECT * FROM quota.tenants")
    assert sorted(holes(quota_database_url, "quota", shared=SHARED)) == [
        "api_keys.wide lets through more than its tenant's scope",
        "forgotten has no policy",
        "forgotten has no row-level security that its owner obeys",
        "inference_requests_other is a partition that the service may touch",
        "peep is a view that sees as its owner does",
    ]


async def test_rows_of_others_are_neither_seen_nor_written(client: QuotaClient, database_url: str) -> None:
    tables = tenant_tables(database_url, "quota")
    assert tables.keys() == PLANTED.keys()
    with psycopg.connect(database_url) as superuser:
        # Foreign keys and triggers aside: the rows needn't make sense.
        superuser.execute("SET session_replication_role = replica")
        for table in tables:
            for tenant in ("acme", "rival"):
                superuser.execute(planting(table), {"tenant": tenant})
    conninfo = service_conninfo(database_url, service="quota", statement_timeout_s=10, lock_timeout_s=5)
    with psycopg.connect(database_url) as superuser, psycopg.connect(conninfo, autocommit=True) as service:
        for table, column in tables.items():
            assert {"acme", "rival"} <= rows_of(superuser, table, column), table
            assert rows_of(service, table, column) == set(), table
        service.execute("SELECT set_config('headrace.tenant_id', 'acme', false)")
        for table, column in tables.items():
            assert rows_of(service, table, column) <= {"acme"}, table
            with pytest.raises(errors.InsufficientPrivilege):
                service.execute(planting(table), {"tenant": "rival"})
