"""The console: a web application of static files that uses only the public API."""
