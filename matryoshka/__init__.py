"""What a granularity is: prefixes, nested training and energy compaction."""
