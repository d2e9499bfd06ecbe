"""The compiler of vamc: from a build config and a checkpoint to a runstream."""
