"""Image-caption data: sources, captions, selection, downloads and encoded sets."""
