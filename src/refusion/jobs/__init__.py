"""Jobs: the restoration of many pictures, planned; read, restored and written side by side."""
