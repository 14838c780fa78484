"""Read option chains, price them and judge their Greeks."""
