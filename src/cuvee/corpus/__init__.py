"""The documents: read, checked, split, fingerprinted and tokenised."""
