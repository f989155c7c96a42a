"""The commands: each file owns its arguments and what it does."""
