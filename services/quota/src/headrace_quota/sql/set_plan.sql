-- Makes a plan, or changes it where it differs; locks it in any case, so that changes of its limits take turns.
INSERT INTO quota.plans AS plan (name, display_name, aggregate_streams)
VALUES (%(name)s, %(display_name)s, %(aggregate_streams)s)
ON CONFLICT (name) DO UPDATE
    SET display_name = EXCLUDED.display_name, aggregate_streams = EXCLUDED.aggregate_streams
    WHERE (plan.display_name, plan.aggregate_streams) IS DISTINCT FROM (EXCLUDED.display_name, EXCLUDED.aggregate_streams)
