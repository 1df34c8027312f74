"""The ways of moving a model that scripts/bench/exchange.py compares, each with a server and a client."""
