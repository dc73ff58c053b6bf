"""Items to vectors: text and pictures in, unit-length float32 rows out."""
