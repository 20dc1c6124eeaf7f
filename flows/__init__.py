"""The stages as Prefect flows: order, retry, report, cancel. Everything else is a `pangu` command."""
