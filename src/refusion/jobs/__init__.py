"""Jobs: the restoration of many pictures, planned and run one after another."""
