"""The larger commands of the command line, one a file: `add(commands)` declares one, its `run` does it."""
