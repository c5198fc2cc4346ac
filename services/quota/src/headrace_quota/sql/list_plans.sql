-- A page of plans with their limits in the order of their names' bytes, by plans_pkey.
SELECT
    plan.name, plan.display_name, plan.aggregate_streams, plan.created_at, plan.updated_at,
    (SELECT jsonb_agg(to_jsonb(planned)) FROM quota.plan_limits AS planned WHERE planned.plan = plan.name) AS limits
FROM quota.plans AS plan
WHERE plan.name > %(after_name)s
ORDER BY plan.name
LIMIT %(limit)s
