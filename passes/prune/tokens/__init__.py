"""What `PruneVocabulary` does."""
