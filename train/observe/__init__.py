"""What others see of a run while it trains: TensorBoard, MLflow, and what it runs on. Only rank 0 calls these."""
