"""Training data to projection differences, record by record. Knows no page and no command line."""
