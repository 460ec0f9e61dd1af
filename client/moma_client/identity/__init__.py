"""Who a site is and whom it trusts: keys, enrolment, peers, revocations."""
