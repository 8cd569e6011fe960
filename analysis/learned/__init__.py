"""Was anything learned, and where is it lost: upstream accuracy, learning curves, classes and test groups."""
