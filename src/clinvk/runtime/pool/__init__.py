"""Warm agent processes: which are kept, which carries a run, and when they are evicted."""
