"""Sixty sentences as people write them about things."""

SENTENCES = """
A dry red wine from the hills of Tuscany, with notes of cherry and leather.
Sparkling white wine, best served cold on a summer evening.
Rosé with the taste of strawberries, 750 ml.
Shampoo for dry and damaged hair, with argan oil.
Conditioner that leaves fine hair soft and easy to comb.
Nail polish in a deep, glossy red that dries within a minute.
A moisturising cream for sensitive skin, without perfume.
Sunscreen with factor fifty that does not leave a white film.
An electric toothbrush with a timer and two brush heads.
A space captain and his crew fight an empire that builds a moon of steel.
Two strangers meet on a train to Vienna and talk until the morning.
A detective who cannot remember what he did yesterday hunts a murderer.
Toys come alive when nobody is looking, and one of them is jealous.
A shark keeps the swimmers of a small seaside town out of the water.
An old man ties balloons to his house and flies away with a boy scout.
The story of a boxer from Philadelphia who gets one chance.
A documentary about penguins that walk for months across the ice.
A cartoon mouse learns to steer a steamboat.
Wool socks for hiking, three pairs, sizes 39 to 42.
Running shoes with a light sole for long distances.
A waterproof jacket that folds into its own pocket.
Jeans with a straight leg and five pockets, dark blue.
A silk scarf with a pattern of small birds.
Leather boots with a zip, lined for the winter.
A cotton shirt that does not need to be ironed.
A coffee grinder with steel burrs and forty settings.
A cast iron pan that gets better with every year.
A set of six glasses, hand blown, each a little different.
A bread knife with a wooden handle.
A kettle that whistles when the water boils.
A small saw for branches up to ten centimetres.
A cordless drill with two batteries and a case.
Screws of steel, countersunk, a box of two hundred.
A garden hose of twenty metres that never kinks.
Seeds of cherry tomatoes that grow on a balcony.
A tent for two people that is up in five minutes.
A sleeping bag for nights below zero.
A bicycle bell that sounds like a ship.
A helmet for children with a light at the back.
An inflatable kayak with a pump and two paddles.
A puzzle of a thousand pieces that shows the old town of Prague.
A board game about trade in the Mediterranean for two to five players.
Building blocks of wood in eight colours.
A doll that closes its eyes when it is laid down.
A remote controlled car that drives on walls.
A guitar for beginners with nylon strings and a bag.
A piano book with forty easy pieces from three centuries.
A record of the cello suites, played on an old instrument.
Headphones that keep the noise of the train outside.
A radio that runs on sunlight or on a crank.
A phone case of recycled plastic, transparent.
A screen of twenty-seven inches with sharp text.
A keyboard whose keys click loudly.
A chair for long days at a desk, with a headrest.
A lamp that wakes you up with a sunrise.
A cookbook of the Georgian kitchen: walnuts, cheese bread and dumplings.
A novel about three sisters who inherit a lighthouse.
A guide to the mushrooms of central Europe, with photographs.
A dictionary of Icelandic for travellers.
A calendar with a picture of a different cat every month.
""".strip().split("\n")
