"""From a budget to a recipe: candidates, trials, a study of them, and what is best."""
