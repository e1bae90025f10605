"""`Runs` through the private socket of a running server: commands of the same user and home use warm agents."""
