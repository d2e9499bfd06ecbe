"""`vamc bench`: how fast a runstream is, beside what the machine could do in the same process."""
