"""The bodies of requests and answers; the typed client of the page is generated from them."""
