"""Building blocks of the streams. A leaf of the package: imports nothing else of it."""
