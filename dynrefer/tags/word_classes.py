"""English words by what they do in a phrase, as data for the rules of ``phrase_sides.py``.

Chosen for phrases about regions of images, which are short, lack finite verbs and often articles.
"""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ARTICLES = _words("a an the this these those his her its their my your our")
QUANTIFIERS = _words(
    "some any each every all both another other several many few most two three four six seven"
    " eight nine ten eleven twelve one ones first second third various multiple single such lots"
)
DENIALS = _words("no not without never neither nor none cannot lacking missing")
PREPOSITIONS = _words(
    "about above across after against ahead along alongside amid among amongst around as at atop"
    " before behind below beneath beside besides between beyond by down during except for from in"
    " inside into like near nearby of off on onto opposite out outside over past per through"
    " throughout to toward towards under underneath until up upon via with within"
)
COPULAS = _words("is are was were be been am isn aren wasn weren")
HAVING = _words("has have had having doing")
AUXILIARIES = _words("do does did will would could should may might must being")
JOINERS = _words("and or & , . ; but while / plus")
RELATIVES = _words("that who which whose whom where when what")
PRONOUNS = _words(
    "he she it they i you we him them me us someone something himself herself itself themselves"
)
ADVERBS = _words(
    "very really just also too so quite almost only still together away back-to-back apart next"
    " then now already slightly partly partially half-way forward backward sideways upside far"
    " close-by maybe probably more less least alone outdoors indoors upright downhill uphill there"
    " here"
)
# End in -ly and are no adverbs.
NO_ADVERBS = _words(
    "butterfly family lily belly jelly fly holly curly woolly friendly ugly assembly dragonfly"
    " bully rally italy july ally barfly doily fuzzy ply oily hilly bubbly silly lovely early only"
    " elderly"
)
ADJECTIVES = _words(
    "white black red blue green yellow orange purple pink brown gray grey tan beige gold silver"
    " dark light bright pale big small large little tiny huge tall short long wide narrow thick"
    " thin old young new wet dry empty full open closed dirty clean round square high low wooden"
    " metal plastic glass leather concrete furry fluffy colorful shiny striped plaid spotted front"
    " back left right upper lower middle same different whole lone nice cute"
)
COLOURS = _words(
    "white black red blue green yellow orange purple pink brown gray grey tan beige teal"
    " turquoise maroon gold golden silver khaki colored coloured"
)
# Verbs that say what something is, as copulas do, unless "at" or "like" follows.
LINKING = _words("looks seems appears remains looked seemed appeared remained looking")
# Before a colour they say which shade and are no things: "navy blue", "light brown".
SHADES = _words(
    "light dark bright pale deep navy sky lime hot royal baby neon rose olive forest off"
)
# "a slice of pizza" shows pizza: what follows "of" belongs where these stand.
QUANTITIES = _words(
    "slice piece pair group bunch set row stack pile part section portion half herd flock crowd"
    " couple lot number collection patch variety assortment kind type sort bit stretch strip roll"
    " cluster team pack loaf chunk sheet block view up dozen majority rest third quarter body one"
    " two three four five some all most each several many both any none"
)
# Nouns in -ing: they end no noun phrase, as a participle does ("a brown building").
NOUNS_IN_ING = _words(
    "building railing ceiling painting clothing landing wing ring earring king string spring"
    " thing sling swing icing lighting wedding siding awning evening morning frosting topping"
    " lettering marking writing bedding opening shopping parking dressing stuffing filling seating"
    " housing molding flooring roofing carving drawing decking netting piping wiring padding"
    " stocking crossing legging sibling pudding dumpling duckling lightning paving covering"
    " trimming fencing stitching handwriting paneling binding gardening clearing wrapping nothing"
    " something anything"
)
# -ing forms that begin a phrase with their object: "wearing sunglasses", not "a flying bird".
TRANSITIVE_ING = _words(
    "wearing holding carrying using having eating riding playing watching reading pulling pushing"
    " cutting throwing catching hitting swinging drinking taking showing crossing facing touching"
    " feeding brushing giving making doing reaching kicking driving serving selling getting"
)
# Formed like participles, used like adjectives: "the shirt is striped".
ADJECTIVES_IN_ED = _words(
    "striped tiled bearded dotted spotted checkered colored coloured patterned sleeved legged"
    " haired eyed shaped sized faced sided red bricked wooded grassed hooded flowered furred"
    " winged horned tailed collared rugged naked tired ruffled pleated framed beaded tanned domed"
    " arched curved"
)
PARTICIPLES = _words(
    "broken stuck torn drawn eaten hung made built cut split bent shown taken thrown driven"
    " ridden written frozen grown kept laid worn seen held spread blown shut given hidden"
)
PAST_FORMS = _words("sat stood wore held rode ate ran flew went came took made swam slept kept")
# Verbs whose third person is hardly ever a noun.
VERBS = _words(
    "sit hold wear ride eat read say go come get make take give lean hang lie lay graze pull push"
    " carry throw hit kick reach swim dive climb talk speak laugh seem appear contain depict"
    " include display indicate lead sleep rest reflect surround connect attach belong remain wait"
    " prepare try attempt perform pose touch hug kiss feed chew lick sniff use need want grow"
    " float fill hover move perch enter leave watch follow extend gather operate compete roam bend"
    " kneel swing"
)
# Verbs whose third person is often a plural; verbs only after someone or something that acts.
NOUN_LIKE_VERBS = _words(
    "stand walk run play jump catch cross serve drink turn cook smile ski skate surf fly drive"
    " work face show wave stop stretch bite dance drop race park land fish trot gallop travel pass"
    " skateboard stare shop slide point cover fall look keep"
)
ACTORS = _words(
    "man woman boy girl person people child kid guy lady men women children player surfer skier"
    " skateboarder snowboarder batter catcher pitcher rider baby toddler dog cat bird horse cow"
    " elephant giraffe zebra bear sheep lion duck bus train car truck plane airplane boat"
    " motorcycle he she it they crowd couple family team animal umpire someone adult cyclist"
    " goalie"
)
# Things whose names are verbs too, of another meaning. A form of the verb is no sign of the thing:
# a parked car shows no park, hair that is tied back no tie.
THINGS_NOT_DEEDS = _words(
    "park tie watch fall face back line dress match wave spring book train water bat light ground"
    " star shower post bear bark hand head leaf stick ring pitch can saw duck coach iron nail seal"
    " ship store spot table tape track trunk type wind season"
)
# Plurals that are another thing than their singular: a glass is no part of glasses.
PLURALS_APART = _words("glasses shorts tights bangs grits goods clogs arms")
# Verbs that say nothing one could see.
EMPTY_VERBS = _words("be have do get make see say")
