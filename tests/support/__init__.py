"""What tests of several services share: real PostgreSQL and Valkey servers started from wheels."""
