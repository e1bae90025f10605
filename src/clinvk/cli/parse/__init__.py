"""argv to typed flags: commands, flags, help texts and settings."""
