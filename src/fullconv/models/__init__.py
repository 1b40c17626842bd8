"""The method: from a classifier to a fully convolutional network (sections 3 and 4 of the paper)."""
