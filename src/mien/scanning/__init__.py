"""Logged conversations to readings on gauges, chunk by chunk. Knows no page and no command line."""
