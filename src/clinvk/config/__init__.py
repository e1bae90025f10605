"""Settings: model, loading, checks and editing."""
