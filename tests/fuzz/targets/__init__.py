"""One file for each kind of input; see `fuzz.target.Target`."""
