-- A gateway has ended: its share is free.
SELECT quota.leave_gateway(%(gateway_id)s)
