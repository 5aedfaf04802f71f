"""Running a model: session, samples, statistics, compare, timing."""
