"""Exit statuses of the compiler's commands beyond those of every command (`vamc_runtime.errors`)."""

EXIT_OUTSIDE_BUDGET = 1
"""Of `vamc verify`, and of a build whose verification fails."""
