"""ZeRO: what every rank holds whole and what it shares out with the others (Rajbhandari et al. 2020)."""
