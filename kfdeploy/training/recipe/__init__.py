"""The typed recipe: everything an experiment is, in one TOML file."""
