"""How a teacher moves with a student, as configs name it; read without torch."""

from typing import Literal

BatchNorm = Literal["moving", "adapt"]
Schedule = Literal["published", "single_pass"]
