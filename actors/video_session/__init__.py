"""One learner watching one video."""
