"""Learning in plain torch: tasks, training, parameters, mixing, trust. Knows no network, no chain, no event loop."""
