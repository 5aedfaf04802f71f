"""What `Factorise` does."""
