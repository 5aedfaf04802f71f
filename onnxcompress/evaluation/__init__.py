"""Judging models: metrics, two models side by side, how long they take and why, how sensitive they are."""
