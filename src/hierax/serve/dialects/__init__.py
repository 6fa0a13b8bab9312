"""What requests and answers look like: one file a dialect, and no web framework in any."""
