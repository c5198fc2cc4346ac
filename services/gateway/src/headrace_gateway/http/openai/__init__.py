"""The API of OpenAI, over the mesh's own calls."""
