"""Reading, coarsening and streaming of images and labels."""
