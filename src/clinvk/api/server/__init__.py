"""`clinvk serve`: listen, route, serve and shut down."""
