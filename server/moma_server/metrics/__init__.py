"""All metrics of the servers; the one door to prometheus_client."""
