"""Other conversion libraries, measured in the same way as transpike."""
