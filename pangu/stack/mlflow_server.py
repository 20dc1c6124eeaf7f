"""`python -m pangu.stack.mlflow_server HOST PORT DATABASE ARTIFACTS`: MLflow's server in one process.

`mlflow server` would start it as a child, and wait for it with all of MLflow imported a second time: 225 MB and five seconds of a
core.
"""

import os
import sys

UNASKED = ("polars", "pyarrow", "scipy")
"""Imported by MLflow or pandas where they are there, for data sets and models, which a server is not given: 66 MB."""


def main(host: str, port: str, database: str, artifacts: str) -> None:
    """What `mlflow server --workers 1 --serve-artifacts` does, in this process: tables first, then HTTP, until SIGTERM.

    database: SQLAlchemy's address. artifacts: URI of the folder that the server keeps artefacts in.
    """
    sys.modules.update(dict.fromkeys(UNASKED))  # type: ignore[arg-type]  # None: not to be imported
    from mlflow.server import constants

    root = "mlflow-artifacts:/"
    os.environ |= {
        constants.BACKEND_STORE_URI_ENV_VAR: database,
        constants.REGISTRY_STORE_URI_ENV_VAR: database,
        constants.ARTIFACT_ROOT_ENV_VAR: root,
        constants.ARTIFACTS_DESTINATION_ENV_VAR: artifacts,
        constants.SERVE_ARTIFACTS_ENV_VAR: "true",
    }
    import uvicorn
    from mlflow.server.handlers import initialize_backend_stores

    initialize_backend_stores(database, database, root)
    uvicorn.run("mlflow.server.fastapi_app:app", host=host, port=int(port), log_level="warning")


if __name__ == "__main__":
    main(*sys.argv[1:])
