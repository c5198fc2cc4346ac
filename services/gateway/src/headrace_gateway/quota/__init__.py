"""What tenants may use: limits from the feed, leases of them from the quota service."""
