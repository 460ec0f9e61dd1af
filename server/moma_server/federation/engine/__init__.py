"""The one door to Flower: SuperLink, ServerApp, grid."""
