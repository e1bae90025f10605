"""Access control: hosts, origins, keys, rate limits, and what requests may ask for."""
