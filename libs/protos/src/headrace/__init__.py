"""Generated gRPC contracts of Headrace and of the Open Inference Protocol."""
