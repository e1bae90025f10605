"""The agent CLIs: one folder each, behind the protocols of `base`. Pure."""
