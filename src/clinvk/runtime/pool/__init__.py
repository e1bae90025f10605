"""Warm agent processes: which processes stay warm, which process carries a run, and when a process is evicted."""
