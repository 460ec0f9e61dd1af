"""The federation: rounds over a supervised Flower SuperLink. The only user of flwr here."""
