"""The one exception that is meant for people."""


class UserError(ValueError):
    """Bad input, said in one sentence that names the file, row, field or parameter and what would be right.

    The CLI prints the sentence and exits with 2, a flow fails with it, and the gateway answers 400.
    """


class NotFinite(UserError):
    """Latents or pixels hold infinities or NaN, so there is no image to show; weights, noise levels or a dtype are at fault.

    A server answers 500: the client did nothing wrong.
    """
