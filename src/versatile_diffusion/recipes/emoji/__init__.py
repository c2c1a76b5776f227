"""The emoji model: data set, training stages and judge."""
