"""The fine set: precise mine outlines; see README.md."""
