-- When the transaction began.
SELECT now() AS now
