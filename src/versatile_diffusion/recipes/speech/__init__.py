"""Spoken words: the data set, how the audio parts of a model are trained, and how they are judged."""
