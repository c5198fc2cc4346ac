"""Reads and writes the tensors of the Open Inference Protocol without parsing or copying the message around them."""
