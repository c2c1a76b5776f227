"""Writers of published layouts."""
