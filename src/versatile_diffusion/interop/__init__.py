"""Reading and writing of published checkpoint layouts."""
