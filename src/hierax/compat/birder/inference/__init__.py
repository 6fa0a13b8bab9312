"""birder's inference functions."""
