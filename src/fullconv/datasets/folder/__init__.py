"""A folder of images and masks as a dataset."""
