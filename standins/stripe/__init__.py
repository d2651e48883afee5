"""A payment service that speaks Stripe's API, for development and tests: no money moves."""
