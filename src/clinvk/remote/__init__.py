"""`Runs` through a running server's private socket: a command of the same user and home starts warm there."""
