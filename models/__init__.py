"""The demo models, as they ship with the package: how each was made, and a manifest."""
