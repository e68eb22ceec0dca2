"""Names and objects of the embedded task's problems."""

__all__ = [
    "ANIMALS",
    "COLORS",
    "CONTAINERS",
    "FRIENDS",
    "HE",
    "OBJECTS",
    "PLACES",
    "SHE",
    "spell_number",
]

SHE = (
    "Ann Jane Mary Lucy Emma Nora Ruth Sara Tina Vera Zoe Lily Grace Helen Irene Julia Kate Laura "
    "Maria Olga Paula Rosa Susan Alice Betty Carol Diana Ella Fiona Gina"
).split()
HE = (
    "Joe Tom Sam Bob Max Leo Ben Dan Eric Fred Greg Hugo Ivan Jack Karl Liam Mark Nick Oscar Paul "
    "Ralph Steve Tim Victor Will Adam Brian Chris David Frank"
).split()

FOOD = {
    "apples": "apple", "oranges": "orange", "pears": "pear", "plums": "plum",
    "peaches": "peach", "cookies": "cookie", "candies": "candy", "muffins": "muffin",
    "lemons": "lemon", "carrots": "carrot", "nuts": "nut", "cherries": "cherry",
    "bananas": "banana", "grapes": "grape", "donuts": "donut",
}  # fmt: skip
THINGS = {
    "marbles": "marble", "books": "book", "pencils": "pencil", "stickers": "sticker",
    "stamps": "stamp", "coins": "coin", "cards": "card", "shells": "shell", "balloons": "balloon",
    "buttons": "button", "beads": "bead", "toys": "toy", "flowers": "flower", "stones": "stone",
    "ribbons": "ribbon", "crayons": "crayon", "postcards": "postcard", "bricks": "brick",
    "tickets": "ticket", "feathers": "feather",
}  # fmt: skip
OBJECTS = {**FOOD, **THINGS}

COLORS = "red blue green yellow black white brown pink".split()
CONTAINERS = {"boxes": "box", "bags": "bag", "baskets": "basket", "jars": "jar", "packs": "pack"}
FRIENDS = ("friends", "children", "cousins", "neighbors")
ANIMALS = "cat dog horse bird fish rabbit duck goat".split()
PLACES = ("park", "market", "school", "garden", "beach", "library", "farm", "shop")

ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
).split()
TENS = "_ _ twenty thirty forty fifty sixty seventy eighty ninety".split()


def spell_number(number: int) -> str:
    """A number below one hundred in English words."""
    if number < 20:
        return ONES[number]
    return TENS[number // 10] + ("-" + ONES[number % 10] if number % 10 else "")
