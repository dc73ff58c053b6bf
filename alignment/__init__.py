"""Content space and collaborative space: evidence from behaviour, the map, fusion, evaluation."""
