"""Building compiled kernels on the user's machine. Standard library only; importing it compiles nothing."""
