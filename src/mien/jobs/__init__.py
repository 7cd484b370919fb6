"""One job a file, each readable from top to bottom like the method it is."""
