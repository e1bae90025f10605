"""The vocabulary that every package speaks: requests, events, results, records and errors. Pure."""
