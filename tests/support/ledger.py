"""The schema of an invented service, `ledger`, and how a service writes its revisions down."""

from __future__ import annotations

from pathlib import Path

FIRST = """
-- A percent sign and dollar quoting, both of which a driver could mangle: 100 %
CREATE TABLE ledger.notes (
    tenant_id text NOT NULL,
    name      text NOT NULL,
    body      text NOT NULL DEFAULT '',
    PRIMARY KEY (tenant_id, name)
);
ALTER TABLE ledger.notes ENABLE ROW LEVEL SECURITY;
ALTER TABLE ledger.notes FORCE ROW LEVEL SECURITY;
CREATE POLICY scope ON ledger.notes USING (ledger.in_scope(tenant_id)) WITH CHECK (ledger.in_scope(tenant_id));

CREATE FUNCTION ledger.shout(body text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RAISE DEBUG 'shouting % at 100 %%', body;
    RETURN upper(body);
END
$$;
"""
SECOND = """
CREATE TABLE ledger.notes_revision (
    only_row  boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    epoch     uuid    NOT NULL DEFAULT gen_random_uuid(),
    revision  bigint  NOT NULL DEFAULT 0,
    compacted bigint  NOT NULL DEFAULT 0
);
INSERT INTO ledger.notes_revision DEFAULT VALUES;
CREATE TABLE ledger.notes_changes (revision bigint PRIMARY KEY, payload bytea NOT NULL);
"""


def add_revision(directory: Path, number: int, statements: str) -> None:
    """Writes one revision as a service would: a module and the SQL file beside it."""
    down = f'"{number - 1:04d}"' if number > 1 else "None"
    stem = directory / f"{number:04d}_step"
    stem.with_suffix(".sql").write_text(statements)
    stem.with_suffix(".py").write_text(
        "from headrace_common.migrations import sql_revision\n"
        f'revision = "{number:04d}"\ndown_revision = {down}\nupgrade = sql_revision(__file__)\n'
    )
