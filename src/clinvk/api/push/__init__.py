"""Web Push: messages to browsers about runs, encrypted for each browser."""
