"""Files from the web: fetched once, verified, unpacked safely."""
