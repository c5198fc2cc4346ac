"""The usage ledger: what gateways' spools bring, and what is asked of it."""
