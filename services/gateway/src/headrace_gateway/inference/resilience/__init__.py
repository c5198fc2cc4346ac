"""What keeps calls alive when runners fail or are too slow: pure decisions, one a file. The dispatcher acts on them."""
