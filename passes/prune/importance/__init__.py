"""How much each channel of a group matters: what scores low goes first."""
