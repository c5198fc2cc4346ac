"""The local mesh: PostgreSQL, Valkey and every service as processes that one supervisor starts, watches and stops."""
