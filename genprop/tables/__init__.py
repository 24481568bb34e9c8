"""Tables of mixed columns: their law, what is missing filled in, and how well that was done."""
