"""One file per program that is measured; each imports its packages only inside methods, in its own environment."""
