"""A language model of Shakespeare's plays."""
