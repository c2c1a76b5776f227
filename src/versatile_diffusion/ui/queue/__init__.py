"""Jobs of the studio: their queue, limits and storage."""
