"""How much goes from which group: budgets, rankings, overrides, schedules."""
