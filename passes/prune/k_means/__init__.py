"""Clustering numbers."""
