"""`mien serve`: an OpenAI-compatible server whose model is read at every token and held in its normal range."""
