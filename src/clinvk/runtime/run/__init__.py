"""The life of a run: the place in the queue, the agent process and the ending."""
