"""The web studio: every task of one model in a browser, for one or many users (`versatile ui`)."""
