"""Class hierarchies, and the label under which each class is trained."""
