"""What a run or a sweep has to say: a ranking with its spread over seeds, a summary, pictures and a page."""
