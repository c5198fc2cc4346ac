-- The feed's epoch and revision, and the newest revision whose change is forgotten.
SELECT
    feed.epoch::text AS epoch,
    feed.revision,
    coalesce((SELECT min(change.revision) - 1 FROM registry.catalog_changes AS change), feed.revision) AS compacted
FROM registry.catalog_feed AS feed
