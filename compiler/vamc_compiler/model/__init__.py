"""The model to compile: its configuration, and the modeling file that defines one rank of it."""
