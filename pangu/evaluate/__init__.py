"""How good a pair is: metrics and the protocol that makes them comparable."""

from pangu.callable_package import make_callable

make_callable(__name__, "evaluation")
