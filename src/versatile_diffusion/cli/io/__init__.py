"""Reading inputs, writing results and reporting errors."""
