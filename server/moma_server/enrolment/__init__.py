"""Enrolment: who joins the federation, who stays, who has to leave."""
