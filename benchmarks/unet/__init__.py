"""A U-Net that segments mitochondria, converted in several ways."""
