"""Networks that several recipes share, each in one readable file."""
