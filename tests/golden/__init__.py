"""Golden figures of the demo models: what a verification finds, kept as text, and the check that nothing gets worse."""
