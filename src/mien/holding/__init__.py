"""What a hold is made from, what it buys under attack, and what it costs."""
