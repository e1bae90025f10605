"""clinvk as an agent of the Agent Client Protocol: sessions and turns over any connection."""
