"""One run: from its place in the queue, through an agent process, to its ending."""
