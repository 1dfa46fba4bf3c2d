"""Models of structural biology, and how they are trained, tuned, compressed and served."""
