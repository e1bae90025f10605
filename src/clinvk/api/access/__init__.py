"""Who may use the server, from where, and what their requests may ask for."""
