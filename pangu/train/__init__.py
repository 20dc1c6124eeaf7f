"""Training of one generator: the step, its data order, checkpoints, and the Ray Train job around them."""

from pangu.callable_package import make_callable

make_callable(__name__, "launch")
