"""One learner's talk with the tutor."""
