"""Models, versions, manifests and artefact bytes of Headrace."""
