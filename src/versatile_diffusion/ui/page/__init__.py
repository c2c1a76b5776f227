"""The studio page: layout, panels, uploads and access control."""
