"""Bytes from elsewhere: one downloader, and what is known of the integrity of what it fetched."""
