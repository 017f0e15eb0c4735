"""The coarse set: rough mine polygons; see README.md."""
