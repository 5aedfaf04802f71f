"""What all passes that fold have in common."""
