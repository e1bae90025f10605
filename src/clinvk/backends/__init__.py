"""The agent CLIs, one folder per CLI, behind the protocols of `base`. Pure."""
