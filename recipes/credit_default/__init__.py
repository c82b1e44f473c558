"""Default of credit card clients."""
