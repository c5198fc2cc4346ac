"""The runners behind this gateway: their sessions, what they have loaded, what they are asked to load."""
