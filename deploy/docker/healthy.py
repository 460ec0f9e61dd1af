#!/opt/moma/bin/python
"""Ends with 0 when the program in this container runs, as its metrics page says.

`MOMA_HEALTH` names the page's address, or several with commas, of which one is enough:
a teacher alone has another port than a coordinator.
"""

import http.client
import os
import ssl
import sys

_SECONDS = 5.0


def healthy(address: str) -> bool:
    """Whether `/-/healthy` at this address says ok, by TLS or without."""
    # it is asked whether it lives, from beside it, and told nothing
    any_certificate = ssl.create_default_context()
    any_certificate.check_hostname = False
    any_certificate.verify_mode = ssl.CERT_NONE
    for connection in (
        http.client.HTTPConnection(address, timeout=_SECONDS),
        http.client.HTTPSConnection(address, timeout=_SECONDS, context=any_certificate),
    ):
        try:
            connection.request("GET", "/-/healthy")
            if connection.getresponse().status == http.HTTPStatus.OK:
                return True
        except (OSError, http.client.HTTPException):
            continue
        finally:
            connection.close()
    return False


if __name__ == "__main__":
    addresses = os.environ["MOMA_HEALTH"].split(",")
    sys.exit(not any(healthy(address) for address in addresses))
