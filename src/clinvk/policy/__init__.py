"""What a request may ask for: directories, flags, permission modes and nesting. Pure."""
