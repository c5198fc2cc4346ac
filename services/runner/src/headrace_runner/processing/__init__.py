"""What a manifest has runners do before and after a model: pictures and texts to tensors, tensors to answers."""
