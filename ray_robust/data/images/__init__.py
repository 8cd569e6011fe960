"""From the bytes of an image file to the store of decoded images."""
