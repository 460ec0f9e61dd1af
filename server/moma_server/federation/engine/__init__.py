"""All that uses Flower's server: SuperLink, ServerApp, grid."""
