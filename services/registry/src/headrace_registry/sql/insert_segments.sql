-- All segments of a content in order, unless they are known: equal contents have equal segments.
INSERT INTO registry.artifact_segments (tenant_id, file_sha256, position, sha256, size_bytes)
SELECT %(tenant_id)s, %(file_sha256)s, segment.place - 1, segment.sha256, segment.size_bytes
FROM unnest(%(digests)s::bytea[], %(sizes)s::integer[]) WITH ORDINALITY AS segment (sha256, size_bytes, place)
ORDER BY segment.place
ON CONFLICT (tenant_id, file_sha256, position) DO NOTHING
