"""alembic's entry script. It runs on the connection that `headrace_common.migrations` hands over and nowhere else."""

from __future__ import annotations

from alembic import context

configuration = context.config
context.configure(
    connection=configuration.attributes["connection"],
    version_table="schema_version",
    version_table_schema=configuration.attributes["schema"],
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()
