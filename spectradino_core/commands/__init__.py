"""Larger commands of the command line, one per file: `add(commands)` declares a command, `run` executes it."""
