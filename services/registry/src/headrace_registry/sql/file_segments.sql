-- The segments of a content in order.
SELECT segment.sha256, segment.size_bytes
FROM registry.artifact_segments AS segment
WHERE segment.tenant_id = %(tenant_id)s AND segment.file_sha256 = %(file_sha256)s
ORDER BY segment.position
