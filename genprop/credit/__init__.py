"""Credit assignment in feed-forward networks, with and without back-propagation."""
