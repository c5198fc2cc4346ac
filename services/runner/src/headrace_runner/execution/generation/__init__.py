"""Generation of text: what callers ask for, who gets a slot of the model when, and what is sent as tokens come."""
