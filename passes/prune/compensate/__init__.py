"""Making up for removed channels in closed form."""
