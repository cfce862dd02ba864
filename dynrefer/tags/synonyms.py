"""Words that name the same thing as a tag: the built-in table, and tables of a user's own.

A line is either "a = b = c", words that may stand for each other (a phrase's "sofa" counts as the
tag "couch", and the other way round, whichever the vocabulary has), or "a, b -> c, d", words that
count as the first of c, d that is a tag, for kinds of a thing: every puppy is a dog, not every dog
a puppy.

The built-in table holds what such phrases say often and what RAM's list, which keeps one word of
several, names otherwise: everyday words for people, vehicles, rooms, streets, clothes, food and
sport, British spellings, and adjectives of a material. Words of doubtful meaning are left out:
"glass" (drinking or eyes), "bank" (money or river), "trunk" (tree, animal or car).
"""

from pathlib import Path

BUILT_IN = """
person = people = human
man = guy = gentleman = fellow
woman = lady
child = kid
police officer, policeman, cop -> police officer, police
boy, girl, toddler -> child
baby = infant
cyclist = bicyclist = biker
goalkeeper = goalie
referee = umpire
motorcyclist -> biker, rider
puppy, pup -> dog
cat = kitty
kitten -> cat
seagull = gull = sea gull
foal, colt -> horse
bunny = rabbit
piglet -> pig
teddy = teddy bear
stuffed animal = stuffed toy = plush toy = plushie
bull, ox -> cow
airplane = plane = aeroplane = aircraft
jet, jetliner, jumbo jet, airliner -> jet, airplane
helicopter = chopper
bicycle = bike = push bike
motorcycle = motorbike = motor cycle = motor bike
moped, scooter -> scooter, motorcycle
car = automobile
taxi = taxicab = cab = taxi cab
suv = sport utility vehicle
truck = lorry
pickup, pickup truck, pick up truck -> pickup truck, truck
semi, semi truck, eighteen wheeler -> truck
fire truck = fire engine = firetruck
double decker, double decker bus, double-decker bus -> decker bus, bus
train car = railroad car = railcar
train station = railway station = railroad station
train track = railroad track = railway track
canoe, kayak, rowboat, row boat -> canoe, kayak, rowboat, boat
tire = tyre
license plate = licence plate = number plate
windshield = windscreen
tail light = taillight = rear light = back light
headlight = head light = head lamp
street = road = roadway
sidewalk = pavement = side walk
footpath, walkway, pathway, foot path -> path
highway = freeway = motorway
curb = kerb
parking lot = car park
crosswalk = zebra crossing = pedestrian crossing = cross walk
traffic light = traffic signal = stoplight = traffic lights
street light = street lamp = streetlight = streetlamp
street sign = road sign
fire hydrant = hydrant = fireplug
telephone pole, utility pole, light pole, electric pole -> telegraph pole, utility pole, pole
trash can = garbage can = waste container = trash bin = garbage bin = wastebasket = dustbin
trash, rubbish, litter -> trash, garbage
railing = handrail = rail = hand rail = guard rail
fencing -> fence
runway = airport runway
building facade = facade
house = home
high rise, highrise -> skyscraper, building
shop = store
ocean = sea
shoreline, seashore, sea shore -> shoreline, shore
rock = stone = boulder
pebble, cobblestone -> pebble, stone
soil = dirt = earth
hillside, slope -> slope, hillside, hill
forest = woods
shrub = bush = shrubbery
leaf = foliage
tree branch, limb, twig -> branch
palm = palm tree
flower = blossom = bloom
greenery = vegetation
sunlight = sunshine
couch = sofa = settee
chair = armchair
desk = table
dining table = dining room table = dinning table
coffee table, end table -> coffee table, side table, table
nightstand = night stand = bedside table = night table
bookshelf = bookcase = book shelf = book case
refrigerator = fridge = refridgerator
oven = cooker
microwave = microwave oven
stove = stovetop = stove top = cooktop
countertop = counter top = counter
cupboard, cabinetry -> cabinet
bathtub = bath tub = tub
toilet = toilet bowl = commode
faucet = tap = water faucet
sink = wash basin = washbasin = basin
rug = carpet
drapes, drape -> curtain
blinds, window blind, window shade -> blind
comforter, bedspread, bed spread, duvet, quilt -> quilt, duvet, bedcover
lampshade = lamp shade
television = tv = tv set = television set
monitor = computer monitor = computer screen
laptop = notebook computer
phone = cell phone = cellphone = mobile phone = telephone = cell
remote = remote control = remote controller
Wii controller = wii remote = wiimote
camera = digital camera
photo = photograph
picture = image
sign = signboard
writing = text
painting, artwork -> painting, art
statue, sculpture -> statue, sculpture
purse = handbag
suitcase -> luggage
baggage = luggage
backpack = rucksack = knapsack
sneaker, sneakers, tennis shoe, running shoe -> sneaker, running shoe, shoe
flip-flop = flip flops
trousers = pants = slacks
shorts = short pants
jeans = denim pants = blue jean
jean, denim -> denim, jeans
t-shirt = t shirt = tee shirt = tshirt
sweater = jumper = pullover
sweatshirt = sweat shirt
hoodie = hooded sweatshirt
jacket = windbreaker
suit coat, suit jacket, blazer, sport coat -> suit, jacket
necktie = neck tie = tie
bowtie = bow tie
baseball cap = baseball hat = ball cap
glove = mitt = mitten
baseball glove = baseball mitt = catcher's mitt = catchers mitt
sunglasses = sun glasses
glasses = eyeglasses = eye glasses = spectacles
swimsuit, bathing suit, swim suit, swim trunks -> swimwear
pajamas, pyjamas, pajama -> sleepwear
underwear -> underclothes
wrist watch = watch = wristwatch
wristband = wrist band = sweat band
moustache = mustache
racket = racquet
tennis racket = tennis racquet
frisbee = flying disc
soccer = football
soccer player = football player
soccer field = football field
soccer game = football game
ski pole = ski stick
wetsuit = wet suit
donut = doughnut
hamburger = burger
hot dog = hotdog
french fries = fries
ice cream = icecream
frosting = icing
cookie, cracker -> cookie, biscuit
soda = soft drink
bread roll = bun
veggies, veggie -> vegetable
eggplant = aubergine
zucchini = courgette
broccoli = brocoli
lettuce leaf = lettuce
ketchup = catsup
coke = coca cola
plate = dish
mug = coffee mug
cup = drinking cup
wine glass = wineglass
silverware = cutlery = flatware
bath towel, hand towel, dish towel -> bath towel, hand towel, towel
toilet paper = toilet tissue
umbrella = parasol
clock tower = clocktower
rope = cord
gray = grey
neighbourhood = neighborhood
theater = theatre
jewelry = jewellery
yogurt = yoghurt
whisky = whiskey
barbecue = barbeque = bbq
purple = violet
beige = cream colored
colour = color
wooden, wood grain -> wood
metallic -> metal
sandy -> sand
snowy -> snowy, snow
rocky -> rocky, stone
grassy -> grassy, grass
golden -> gold
woolen, woollen -> wool
concrete = cement
leafy -> leaf
furry -> fur
muddy -> mud
rusty, rusted -> rust
cloudy -> cloudy, cloud
checkered -> plaid
smile = grin
crouch -> squat
"""


class SynonymError(ValueError):
    """A line of a synonym table that cannot be read."""


def parse_synonyms(text: str, source: str = "synonyms") -> list[tuple[str, list[str]]]:
    """Pairs of a term and the tags that it may count as, best first, in the order of the lines.

    Empty lines and those that begin with ``#`` are left out.

    Raises SynonymError with source and line for one that is neither "a = b" nor "a -> b".
    """
    pairs = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        pairs += _pairs_of_line(line, f"{source}: line {number}")
    return pairs


def load_synonyms(path: str | Path) -> list[tuple[str, list[str]]]:
    """Pairs of a user's table, as ``parse_synonyms`` gives them.

    Raises FileNotFoundError, and SynonymError for text that is no such table or not UTF-8.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SynonymError(f"{path}: is not UTF-8 at byte {error.start}") from error
    return parse_synonyms(text, str(path))


def _pairs_of_line(line: str, where: str) -> list[tuple[str, list[str]]]:
    left, arrow, right = line.partition("->")
    terms = [term.strip() for term in left.split("," if arrow else "=")]
    targets = [term.strip() for term in right.split(",")] if arrow else terms
    if not all(terms) or not all(targets) or ("=" in line if arrow else len(terms) < 2):
        raise SynonymError(f"{where} is {line.strip()!r}; valid is 'a = b' or 'a, b -> c'")
    return [(term, [other for other in targets if other != term]) for term in terms]
