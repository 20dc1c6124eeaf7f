"""How good a pair is: metrics and the protocol that makes them comparable."""
