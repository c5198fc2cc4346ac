-- One plan with its limits, if the scope may see it.
SELECT
    plan.name, plan.display_name, plan.aggregate_streams, plan.created_at, plan.updated_at,
    (SELECT jsonb_agg(to_jsonb(planned)) FROM quota.plan_limits AS planned WHERE planned.plan = plan.name) AS limits
FROM quota.plans AS plan
WHERE plan.name = %(name)s
