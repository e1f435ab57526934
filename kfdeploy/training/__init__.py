"""Everything with torch: from a recipe to a pool and its students."""
