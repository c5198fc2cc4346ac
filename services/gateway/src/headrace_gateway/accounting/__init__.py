"""What calls have used, written where a crash can't take it, and on its way to the ledger."""
