"""What a stranger, or a caller who means ill, sends: the broker's refusals, and what they cost it."""
