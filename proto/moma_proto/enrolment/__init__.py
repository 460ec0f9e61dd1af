"""The client of the enrolment service, for sites and teachers alike."""
