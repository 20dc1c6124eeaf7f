-- Prefect's own database is made by POSTGRES_DB.
CREATE DATABASE mlflow OWNER pangu;
