"""Side-by-side timings of the matrix forms against what a user would otherwise use."""
