"""What each parameter is, selectors, freezing, optimizer groups."""
