"""How long layers take at widths that they do not have: measured on micro-models, kept in a table."""
