"""Images: read to pixels, disturbed, refused where they are not what a model was made for."""
