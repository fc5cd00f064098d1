"""Networks and their losses: what several methods, or one large one, are built of."""
