"""The compiler's commands, one file each: from parsed options (`run`) to the functions that work, and to the screen.

What they import at the top is light: a mistake in the YAML or in the checkpoint's config.json is reported before torch
and TVM are loaded.
"""
