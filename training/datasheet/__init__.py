"""What a data set is like before anything learns from it: faults, copies, pictures, a page."""
