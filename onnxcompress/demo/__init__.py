"""What the demonstration needs: a data set that comes with a package."""
