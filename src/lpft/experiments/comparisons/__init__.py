"""Which runs of an experiment are compared with which, and at which rates."""
