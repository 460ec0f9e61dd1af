"""Identity end to end: Ed25519 signatures, HPKE sealing, pinned keys."""
