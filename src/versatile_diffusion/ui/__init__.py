"""The web studio: every task of one model in a browser, for one person or for many (`versatile ui`)."""
