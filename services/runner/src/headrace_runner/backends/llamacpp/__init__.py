"""Language models from GGUF files by llama.cpp, each in a process of its own."""
