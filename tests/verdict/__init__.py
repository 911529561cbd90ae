"""The verdict on a broker: the pure function by tables, and what a real broker says in its worst moments."""
