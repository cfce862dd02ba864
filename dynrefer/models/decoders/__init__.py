"""What reads the queries of a region: tags, texts, captions."""
