"""What two or more Headrace services use, free of domain concepts."""
