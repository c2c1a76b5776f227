"""Building blocks of the streams. A leaf of the package: no imports from it."""
