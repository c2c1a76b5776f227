"""Forms of the studio: controls, and the tabs that use them."""
