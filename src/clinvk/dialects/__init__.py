"""Wire formats: request bodies in, answers and streams out. Pure."""
