"""A tuned model against its base: what is measured of each, what has changed, and what must not. Knows no page."""
