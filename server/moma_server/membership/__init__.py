"""Who belongs to the federation: tokens, members, pinned sites, renewal."""
