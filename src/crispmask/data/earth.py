"""Land cover of the Earth: a picture and a class map that come with the package."""

EARTH_CLASSES = (
    "water",
    "forest",
    "shrubland",
    "savanna",
    "grassland",
    "wetland",
    "cropland",
    "urban",
    "snow",
    "barren",
)

EARTH_PALETTE = (
    (40, 90, 170),
    (20, 95, 40),
    (165, 120, 60),
    (150, 170, 60),
    (190, 220, 110),
    (60, 170, 160),
    (240, 190, 60),
    (215, 40, 45),
    (240, 245, 250),
    (190, 175, 155),
)
