"""The front door of Headrace: identity, routing and runner sessions."""
