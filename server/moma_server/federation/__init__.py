"""The federation: rounds over a supervised SuperLink; the only user of flwr here."""
