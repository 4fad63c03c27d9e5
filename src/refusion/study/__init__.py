"""Studies: factors x seeds over one recipe or model, divided among machines, analysed in pairs by seed."""
