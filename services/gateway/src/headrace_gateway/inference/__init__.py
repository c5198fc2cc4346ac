"""The path of an inference call through the gateway: endpoint → handler → dispatcher → runner session."""
