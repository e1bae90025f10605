"""Settings: their model, and how they are loaded, checked and edited."""
