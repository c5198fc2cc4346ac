-- A new version; a trigger gives the catalogue its next revision.
INSERT INTO registry.model_versions (tenant_id, model, version, uid, manifest, stated_manifest)
VALUES (%(tenant_id)s, %(model)s, %(version)s, %(uid)s, %(manifest)s, %(stated_manifest)s)
