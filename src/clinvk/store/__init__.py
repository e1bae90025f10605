"""Sessions and runs that outlive a process: the protocol, and the stores that implement it."""
