"""What a run measures: one module a concern, each naming its tags and their units."""
