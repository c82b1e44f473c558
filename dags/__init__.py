"""The pipelines as Airflow's DAGs. dags/pipelines.py is what Airflow reads; the rest is imported by it."""
