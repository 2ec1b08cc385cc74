"""The labels of Broden+ (Xiao et al. 2018): 335 objects, 350 parts of 77 of them, 365 scenes, 25 materials and more.

They are those of the tables in the original's meta_file/joint_dataset, which `visloom/data/broden.py` reads; here
too, so that weights can be used without that folder. Class 0 of objects and materials means "not labelled".
"""

from __future__ import annotations

from visloom.data.legend import names_in
from visloom.tasks.parse.heads import Head, Parts, PartsOf, Pixels, Texture, Whole

OBJECTS = names_in(
    """
    -, wall, sky, floor, tree, building, person, ceiling, table, window, road, grass, chair, car, plant, painting,
    door, sidewalk, light, cabinet, signboard, lamp, ground, curtain, pole, mountain, fence, streetlight, bed, sofa,
    box, earth, shelf, bottle, cushion, water, book, flower, carpet, mirror, vase, flowerpot, sink, dog, armchair,
    rock, wall socket, sconce, pillow, cat, step, pot, plate, railing, clock, bag, column, bicycle, cloth, coffee
    table, ashcan, spotlight, bench, boat, basket, work surface, bowl, desk, airplane, bird, house, plaything, sea,
    paper, television, chandelier, cup, pottedplant, path, switch, stairway, van, stove, truck, awning, chest of
    drawers, traffic light, seat, poster, glass, flag, telephone, fire place, rope, towel, monitor, bucket, bush,
    stool, field, tray, bannister, trade name, wood, fan, horse, motorbike, base, train, bathtub, toilet,
    refrigerator, counter, wardrobe, food, candlestick, blind, computer, board, palm, bus, track, microwave, sand,
    sculpture, fluorescent, countertop, swivel chair, snow, river, air conditioner, ottoman, jar, stair, pack,
    bridge, skyscraper, minibike, loudspeaker, figurine, can, sheep, cow, bookcase, bedclothes, exhaust hood, hill,
    napkin, doorframe, umbrella, manhole, case, container, coach, dishwasher, text, knife, crt screen, magazine,
    curb, oven, monitoring device, gate, blanket, radiator, platform, central reservation, bulletin board, laptop,
    shoe, pool table, metal, fruit, keyboard, coffee maker, candle, faucet, pipe, handbag, wineglass, mug, wire,
    apparel, land, pitcher, remote control, bar, grill, ball, backpack, grandstand, beam, pane, fork, hedge,
    notebook, toilet tissue, parking meter, pen, fireplug, screen door, brush, heater, booklet, kitchen island,
    tower, ladder, hat, shower, soap dispenser, spoon, post, antenna, buffet, kettle, traveling bag, stage, printer,
    teapot, chest, embankment, rack, document, crane, mouse, silver screen, animal, pier, post box, rod, vent,
    console table, camera, statue, jacket, dishrag, microphone, fountain, paper towel, pool ball, washer, mouse pad,
    partition, banner, tent, runway, towel rack, hanger, guitar, place mat, system, ashtray, soap, cue, booth, deck
    chair, bouquet, waterfall, dirt track, vending machine, eyeglass, drawer, saddle, canister, helmet, hovel,
    shutter, telephone booth, shirt, cradle, candelabrum, tank, toaster, traffic cone, soap dish, arcade machine,
    machine, net, easel, cart, skylight, cross, newspaper, canopy, barrel, smoke, footbridge, wheel, baby buggy,
    fire extinguisher, shower stall, swimming pool, sales booth, scaffolding, fridge, patty, altar, streetcar,
    decoration, tapestry, trouser, billboard, file cabinet, cap, bread, cage, hot tub, drawing, saucepan, piano,
    dish, conveyer belt, arcade, equipment, trunk, cd, court, blackboard, lake, ship, railroad train, lighthouse,
    bus stop, exhibitor, jersey, plinth, fabric, projector, forecourt, eiderdown, mat, cash register, calendar,
    briefcase, stick, chimney
    """
)
"""Objects by label; 0 is not labelled."""

SCENES = names_in(
    """
    airfield, airplane_cabin, airport_terminal, alcove, alley, amphitheater, amusement_arcade, amusement_park,
    apartment_building/outdoor, aquarium, aqueduct, arcade, arch, archaelogical_excavation, archive, arena/hockey,
    arena/performance, arena/rodeo, army_base, art_gallery, art_school, art_studio, artists_loft, assembly_line,
    athletic_field/outdoor, atrium/public, attic, auditorium, auto_factory, auto_showroom, badlands, bakery/shop,
    balcony/exterior, balcony/interior, ball_pit, ballroom, bamboo_forest, bank_vault, banquet_hall, bar, barn,
    barndoor, baseball_field, basement, basketball_court/indoor, bathroom, bazaar/indoor, bazaar/outdoor, beach,
    beach_house, beauty_salon, bedchamber, bedroom, beer_garden, beer_hall, berth, biology_laboratory, boardwalk,
    boat_deck, boathouse, bookstore, booth/indoor, botanical_garden, bow_window/indoor, bowling_alley, boxing_ring,
    bridge, building_facade, bullring, burial_chamber, bus_interior, bus_station/indoor, butchers_shop, butte,
    cabin/outdoor, cafeteria, campsite, campus, canal/natural, canal/urban, candy_store, canyon, car_interior,
    carrousel, castle, catacomb, cemetery, chalet, chemistry_lab, childs_room, church/indoor, church/outdoor,
    classroom, clean_room, cliff, closet, clothing_store, coast, cockpit, coffee_shop, computer_room,
    conference_center, conference_room, construction_site, corn_field, corral, corridor, cottage, courthouse,
    courtyard, creek, crevasse, crosswalk, dam, delicatessen, department_store, desert/sand, desert/vegetation,
    desert_road, diner/outdoor, dining_hall, dining_room, discotheque, doorway/outdoor, dorm_room, downtown,
    dressing_room, driveway, drugstore, elevator/door, elevator_lobby, elevator_shaft, embassy, engine_room,
    entrance_hall, escalator/indoor, excavation, fabric_store, farm, fastfood_restaurant, field/cultivated,
    field/wild, field_road, fire_escape, fire_station, fishpond, flea_market/indoor, florist_shop/indoor,
    food_court, football_field, forest/broadleaf, forest_path, forest_road, formal_garden, fountain, galley,
    garage/indoor, garage/outdoor, gas_station, gazebo/exterior, general_store/indoor, general_store/outdoor,
    gift_shop, glacier, golf_course, greenhouse/indoor, greenhouse/outdoor, grotto, gymnasium/indoor, hangar/indoor,
    hangar/outdoor, harbor, hardware_store, hayfield, heliport, highway, home_office, home_theater, hospital,
    hospital_room, hot_spring, hotel/outdoor, hotel_room, house, hunting_lodge/outdoor, ice_cream_parlor, ice_floe,
    ice_shelf, ice_skating_rink/indoor, ice_skating_rink/outdoor, iceberg, igloo, industrial_area, inn/outdoor,
    islet, jacuzzi/indoor, jail_cell, japanese_garden, jewelry_shop, junkyard, kasbah, kennel/outdoor,
    kindergarden_classroom, kitchen, lagoon, lake/natural, landfill, landing_deck, laundromat, lawn, lecture_room,
    legislative_chamber, library/indoor, library/outdoor, lighthouse, living_room, loading_dock, lobby,
    lock_chamber, locker_room, mansion, manufactured_home, market/indoor, market/outdoor, marsh, martial_arts_gym,
    mausoleum, medina, mezzanine, moat/water, mosque/outdoor, motel, mountain, mountain_path, mountain_snowy,
    movie_theater/indoor, museum/indoor, museum/outdoor, music_studio, natural_history_museum, nursery,
    nursing_home, oast_house, ocean, office, office_building, office_cubicles, oilrig, operating_room, orchard,
    orchestra_pit, pagoda, palace, pantry, park, parking_garage/indoor, parking_garage/outdoor, parking_lot,
    pasture, patio, pavilion, pet_shop, pharmacy, phone_booth, physics_laboratory, picnic_area, pier, pizzeria,
    playground, playroom, plaza, pond, porch, promenade, pub/indoor, racecourse, raceway, raft, railroad_track,
    rainforest, reception, recreation_room, repair_shop, residential_neighborhood, restaurant, restaurant_kitchen,
    restaurant_patio, rice_paddy, river, rock_arch, roof_garden, rope_bridge, ruin, runway, sandbox, sauna,
    schoolhouse, science_museum, server_room, shed, shoe_shop, shopfront, shopping_mall/indoor, shower, ski_resort,
    ski_slope, sky, skyscraper, slum, snowfield, soccer_field, stable, stadium/baseball, stadium/football,
    stadium/soccer, stage/indoor, stage/outdoor, staircase, storage_room, street, subway_station/platform,
    supermarket, sushi_bar, swamp, swimming_hole, swimming_pool/indoor, swimming_pool/outdoor, synagogue/outdoor,
    television_room, television_studio, temple/asia, throne_room, ticket_booth, topiary_garden, tower, toyshop,
    train_interior, train_station/platform, tree_farm, tree_house, trench, tundra, underwater/ocean_deep,
    utility_room, valley, vegetable_garden, veterinarians_office, viaduct, village, vineyard, volcano,
    volleyball_court/outdoor, waiting_room, water_park, water_tower, waterfall, watering_hole, wave, wet_bar,
    wheat_field, wind_farm, windmill, yard, youth_hostel, zen_garden
    """
)
"""Scenes by label: those of Places365."""

MATERIALS = names_in(
    """
    -, brick, cardboard, carpet, ceramic, fabric, foliage, food, fur, glass, hair, laminate, leather, metal, mirror,
    painted, paper, plastic, polished stone, rubber/latex, skin, stone, tile, wallpaper, wicker, wood
    """
)
"""Materials by label; 0 is not labelled."""

TEXTURES = names_in(
    """
    banded, blotchy, braided, bubbly, bumpy, chequered, cobwebbed, cracked, crosshatched, crystalline, dotted,
    fibrous, flecked, freckled, frilly, gauzy, grid, grooved, honeycombed, interlaced, knitted, lacelike, lined,
    marbled, matted, meshed, paisley, perforated, pitted, pleated, polka-dotted, porous, potholed, scaly, smeared,
    spiralled, sprinkled, stained, stratified, striped, studded, swirly, veined, waffled, woven, wrinkled, zigzagged
    """
)
"""Textures by label: those of DTD."""

_HIERARCHY = """
    sky: cloud
    building: window, door, column, roof, balcony, shop window, pane, railing, chimney, metal shutter, shutter,
        dormer, pipe, entrance, step, dome, balustrade, garage door, fire escape, grille, arcades, wall, terrace
    person: leg, head, torso, arm, eye, ear, nose, neck, hand, hair, mouth, foot, eyebrow, back
    ceiling: beam
    table: leg, door, drawer, base, top, apron, side, skirt, front, pedestal
    window: pane, sash, lower sash, upper sash, rail, casing, sill, stile, muntin
    road: crosswalk
    chair: leg, arm, back, seat, seat cushion, back pillow, seat base, apron, skirt, stretcher
    car: window, door, wheel, headlight, mirror, license plate, roof, taillight, windshield, bumper, gas cap, wiper
    painting: frame
    door: window, door frame, handle, pane, knob, lock, hinge
    light: shade, canopy, backplate, aperture, diffusor
    cabinet: leg, door, drawer, top, side, skirt, shelf, front
    lamp: arm, shade, column, base, canopy, tube, chain, bulb, cord
    bed: leg, headboard, base, footboard, side, side rail, ladder, bedpost
    sofa: leg, arm, back, seat, seat cushion, back pillow, seat base, apron, skirt
    shelf: door, top, side
    bottle: body, cap
    mirror: frame
    sink: faucet, bowl, tap, pedestal
    dog: leg, head, torso, eye, ear, nose, neck, tail, muzzle, paw
    armchair: leg, arm, back, seat, seat cushion, back pillow, seat base, apron, skirt, earmuffs
    wall socket: socket
    sconce: arm, shade, backplate
    pillow: headboard
    cat: leg, head, torso, eye, ear, nose, neck, tail, paw
    clock: face
    column: base, shaft, capital
    bicycle: wheel, handle bar, saddle, chain wheel
    coffee table: leg, top, apron, shelf
    spotlight: shade
    desk: leg, drawer, top
    airplane: wheel, tail, body, wing, stern, engine, fuselage, stabilizer, landing gear
    bird: leg, head, torso, eye, neck, foot, tail, wing, beak
    house: window, door, column, roof, balcony, railing, chimney, garage door
    television: screen
    chandelier: arm, shade, canopy, chain, bulb
    pottedplant: plant, pot
    stairway: step
    van: window, door, wheel, headlight, license plate, taillight, windshield
    stove: drawer, button panel, oven, dial, burner
    truck: wheel, windshield
    chest of drawers: drawer, top, side, skirt, front
    seat: back, seat cushion
    glass: base, bowl, opening, stem
    telephone: base, receiver
    monitor: screen
    stool: leg, seat
    fan: canopy, blade, motor
    horse: leg, head, torso, eye, ear, neck, tail, muzzle, hoof
    motorbike: wheel, headlight, handle bar
    train: head, headlight, coach, head roof, coach roof
    bathtub: faucet, tap
    toilet: lid, water tank, bowl
    refrigerator: door
    wardrobe: door, drawer
    computer: keyboard, monitor, mouse, computer case, speaker
    bus: window, door, wheel, headlight, mirror, license plate, roof
    microwave: door, screen, button panel, button
    swivel chair: arm, back, base, seat, piston
    ottoman: leg, seat cushion, seat base
    sheep: leg, head, torso, eye, ear, neck, tail, muzzle, horn
    cow: leg, head, torso, eye, ear, neck, tail, muzzle, horn
    bookcase: shelf
    exhaust hood: body, vent
    coach: window, wheel, windshield
    dishwasher: door, button panel
    oven: door, button panel
    monitoring device: screen
    pool table: leg, base, corner pocket, bed, rail, side pocket, cabinet
    mug: handle
    pitcher: handle
    kitchen island: door, drawer
    buffet: door, drawer
    kettle: handle
    washer: door
    lighthouse: window
"""


def _hierarchy(text: str) -> tuple[PartsOf, ...]:
    """Objects and their parts; a line that is indented deeper goes on with the one before."""
    joined = text.replace("\n        ", " ").split("\n")
    pairs = [line.strip().split(": ") for line in joined if line.strip()]
    return tuple(PartsOf(name, names_in(parts)) for name, parts in pairs)


PARTS = _hierarchy(_HIERARCHY)
"""Objects with parts, in the order of the network's outputs."""


def heads(*names: str) -> tuple[Head, ...]:
    """The original's heads with its weights: object, part, scene, material, and texture, which only its paper has.

    names: which; by default the four of the original's code.
    """
    every: tuple[Head, ...] = (
        Pixels(name="object", classes=OBJECTS, void=True),
        Parts(name="part", of="object", parts=PARTS),
        Whole(name="scene", classes=SCENES),
        Pixels(name="material", classes=MATERIALS, at="finest", void=True),
        Texture(name="texture", classes=TEXTURES),
    )
    chosen = names or ("object", "part", "scene", "material")
    return tuple(head for head in every if head.name in chosen)
