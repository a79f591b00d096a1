"""Ten families of word problems: each draws numbers and names and returns a question with its worked solution.

Every family starts from small whole numbers and builds upwards or divides a product, so that all results are exact and
positive. The optional last steps make the same family two to five steps long.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NAMES = _words(
    "Ada Ben Carla Dev Elif Femi Greta Hugo Ines Jonas Kaya Liam Mina Nico Olga Pablo Quinn Rosa Samir Tara "
    "Umar Vera Wei Yara Zoe Amina Boris Chloe Diego Emma"
)
FOODS = _words("apples pears plums peaches lemons muffins bagels cookies melons sandwiches")
STATIONERY = _words("pens notebooks markers folders rulers erasers stickers pencils")
TREASURES = _words("marbles shells beads coins cards stamps buttons pebbles")
GOODS = _words("chairs baskets candles toys lamps shirts bowls kites")
DISHES = _words("pancakes soup bread stew cake curry pasta salad")
PLANTS = _words("sunflower bamboo vine bean tomato pepper")
WISHES = _words("bicycle guitar camera scooter tent skateboard telescope drum")
PLOTS = _words("garden field yard park playground meadow")
EVENTS = _words("concert play fair match film parade")


@dataclass
class Solution:
    """A worked solution under construction: one sentence with one equation per step."""

    sentences: list[str] = field(default_factory=list)
    results: list[int] = field(default_factory=list)

    def step(self, sentence: str, left: int, operator: str, right: int) -> int:
        """Add a sentence, `{}` standing for the equation, and return the equation's result.

        Raises:
            ValueError: if the result is not a positive whole number (a mistake in the family).
        """
        if operator == "/" and left % right:
            raise ValueError(f"{left} / {right} is not whole")
        result = {"+": left + right, "-": left - right, "*": left * right, "/": left // right}[operator]
        if result <= 0:
            raise ValueError(f"{left} {operator} {right} is not positive")
        self.sentences.append(sentence.format(f"{left} {operator} {right} = {result}"))
        self.results.append(result)
        return result


Draft = tuple[str, Solution]


def shopping(rng: Random) -> Draft:
    """Two purchases, perhaps a coupon, perhaps change from a note."""
    name, food, tool, solution = rng.choice(NAMES), rng.choice(FOODS), rng.choice(STATIONERY), Solution()
    n, price, m, cost = rng.randint(2, 9), rng.randint(2, 9), rng.randint(2, 9), rng.randint(2, 9)
    text = f"{name} buys {n} {food} at ${price} each and {m} {tool} at ${cost} each."
    first = solution.step(f"The {food} cost {{}}.", n, "*", price)
    second = solution.step(f"The {tool} cost {{}}.", m, "*", cost)
    total = solution.step("Together that is {}.", first, "+", second)
    ask = f"How much does {name} pay?"
    if rng.random() < 0.5:
        coupon = rng.randint(2, 5)
        text += f" A coupon takes ${coupon} off the total."
        total = solution.step("Less the coupon: {}.", total, "-", coupon)
    if rng.random() < 0.5:
        note = 10 * (total // 10 + rng.randint(1, 4))
        text += f" {name} pays with ${note}."
        solution.step("The change is {}.", note, "-", total)
        ask = f"How much change does {name} get?"
    return f"{text} {ask}", solution


def travel(rng: Random) -> Draft:
    """Two legs at steady speeds, perhaps with a rest of the way to go."""
    name, solution = rng.choice(NAMES), Solution()
    vehicle, slow, fast = rng.choice((("rides a bike", 8, 20), ("drives", 30, 80), ("takes a train", 50, 120)))
    speed, hours = rng.randint(slow, fast), rng.randint(2, 6)
    text = f"{name} {vehicle} at {speed} km per hour for {hours} hours"
    total = solution.step("First {} km.", speed, "*", hours)
    if rng.random() < 0.6:
        speed, hours = rng.randint(slow, fast), rng.randint(2, 6)
        text += f" and then at {speed} km per hour for {hours} more hours"
        second = solution.step("Then {} km.", speed, "*", hours)
        total = solution.step("So far {} km.", total, "+", second)
    trip = total + rng.randint(5, 90)
    text += f". The whole trip is {trip} km."
    left = solution.step("Left are {} km.", trip, "-", total)
    divisors = [hours for hours in range(2, 7) if left % hours == 0]
    if divisors and rng.random() < 0.7:
        hours = rng.choice(divisors)
        solution.step("The speed is {}.", left, "/", hours)
        return f"{text} At what speed in km per hour must {name} go to finish in {hours} hours?", solution
    return f"{text} How many km are left?", solution


def sharing(rng: Random) -> Draft:
    """Boxes of things, some kept or added, the rest shared out equally."""
    name, things, solution = rng.choice(NAMES), rng.choice(TREASURES), Solution()
    friends, share = rng.randint(2, 8), rng.randint(3, 12)
    rest = friends * share
    boxes = rng.randint(3, 9)
    each = rest // boxes + rng.randint(1, 4)
    text = f"{name} has {boxes} boxes with {each} {things} in each."
    total = solution.step(f"There are {{}} {things}.", boxes, "*", each)
    if rng.random() < 0.4:
        found = rng.randint(2, 15)
        text += f" {name} finds {found} more."
        total = solution.step("With the new ones there are {}.", total, "+", found)
    kept = total - rest
    text += f" {name} keeps {kept} and shares the others equally among {friends} friends."
    rest = solution.step(f"To share there are {{}} {things}.", total, "-", kept)
    solution.step("Each friend gets {}.", rest, "/", friends)
    return f"{text} How many {things} does each friend get?", solution


def saving(rng: Random) -> Draft:
    """Weekly savings on top of a start sum, and a wish that they buy or nearly buy."""
    name, wish, solution = rng.choice(NAMES), rng.choice(WISHES), Solution()
    start, weekly, weeks = rng.randint(5, 60), rng.randint(3, 25), rng.randint(3, 12)
    text = f"{name} has ${start} and saves ${weekly} every week for {weeks} weeks."
    saved = solution.step("Saved: {}.", weekly, "*", weeks)
    total = solution.step("With the start that is {}.", start, "+", saved)
    if rng.random() < 0.4:
        spent = rng.randint(2, start)
        text += f" Then {name} spends ${spent} on a present."
        total = solution.step("After the present {}.", total, "-", spent)
    if rng.random() < 0.6:
        more = rng.randint(2, 6)
        price = total + more * rng.randint(2, 12)
        text += f" A {wish} costs ${price}."
        missing = solution.step("Missing are {}.", price, "-", total)
        solution.step("Each week takes {}.", missing, "/", more)
        return f"{text} How much must {name} now save a week to buy it in {more} weeks?", solution
    return f"{text} How much money does {name} have now?", solution


def work(rng: Random) -> Draft:
    """Two workers at steady rates, perhaps with losses, perhaps packed in boxes."""
    name, other = rng.sample(NAMES, 2)
    things, solution = rng.choice(GOODS), Solution()
    fast, slow, hours = rng.randint(4, 15), rng.randint(2, 9), rng.randint(2, 8)
    text = f"{name} makes {fast} {things} an hour and {other} makes {slow} {things} an hour. They work {hours} hours."
    rate = solution.step(f"Together they make {{}} {things} an hour.", fast, "+", slow)
    total = solution.step(f"In {hours} hours they make {{}}.", rate, "*", hours)
    if rng.random() < 0.5:
        broken = rng.randint(2, 9)
        text += f" Of the {things}, {broken} are broken."
        total = solution.step("The good ones are {}.", total, "-", broken)
    divisors = [size for size in range(2, 11) if total % size == 0]
    if divisors and rng.random() < 0.7:
        size = rng.choice(divisors)
        text += f" They pack {'the good ones' if len(solution.sentences) > 2 else 'them'} in boxes of {size}."
        solution.step("The boxes are {}.", total, "/", size)
        return f"{text} How many boxes do they fill?", solution
    good = "good " if len(solution.sentences) > 2 else ""
    return f"{text} How many {good}{things} do they have?", solution


def ages(rng: Random) -> Draft:
    """Three people whose ages depend on each other, now or some years on."""
    name, parent, cousin = rng.sample(NAMES, 3)
    age, times, gap, solution = rng.randint(4, 15), rng.randint(2, 5), rng.randint(2, 9), Solution()
    text = f"{name} is {age} years old. {parent} is {times} times as old as {name}."
    old = solution.step(f"{parent} is {{}} years old.", age, "*", times)
    older = rng.random() < 0.5 or old <= gap
    text += f" {cousin} is {gap} years {'older' if older else 'younger'} than {parent}."
    third = solution.step(f"{cousin} is {{}} years old.", old, "+" if older else "-", gap)
    kind = rng.randrange(3)
    if kind == 0:
        years = rng.randint(2, 20)
        solution.step(f"In {years} years {cousin} is {{}}.", third, "+", years)
        return f"{text} How old will {cousin} be in {years} years?", solution
    if kind == 1:
        both = solution.step(f"{name} and {parent} are {{}} together.", age, "+", old)
        solution.step("All three are {} together.", both, "+", third)
        return f"{text} What is the sum of their three ages?", solution
    return f"{text} How old is {cousin}?", solution


def recipe(rng: Random) -> Draft:
    """A recipe scaled up, perhaps with what is already in the kitchen, perhaps with a price."""
    name, dish, solution = rng.choice(NAMES), rng.choice(DISHES), Solution()
    serves, factor, cups = rng.randint(2, 8), rng.randint(2, 9), rng.randint(2, 12)
    guests = serves * factor
    unit = rng.choice(("cups of flour", "spoons of oil", "grams of salt", "cups of water"))
    text = f"A recipe of {dish} for {serves} people needs {cups} {unit}. {name} cooks for {guests} people."
    times = solution.step("The recipe is made {} times.", guests, "/", serves)
    need = solution.step(f"That needs {{}} {unit}.", times, "*", cups)
    if rng.random() < 0.6 and need > 3:
        there = rng.randint(1, need - 2)
        text += f" {name} already has {there} {unit}."
        need = solution.step("Still needed are {}.", need, "-", there)
        if rng.random() < 0.5:
            price = rng.randint(2, 6)
            noun = unit.split()[0].removesuffix("s")
            solution.step("They cost {} cents.", need, "*", price)
            return f"{text} Each {noun} costs {price} cents. How many cents does the rest cost?", solution
        return f"{text} How many more {unit} does {name} need?", solution
    return f"{text} How many {unit} does {name} need?", solution


def geometry(rng: Random) -> Draft:
    """A rectangle: its fence, or its area with a part taken out, perhaps with a price."""
    name, plot, solution = rng.choice(NAMES), rng.choice(PLOTS), Solution()
    width, price = rng.randint(3, 25), rng.randint(2, 9)
    length = width + rng.randint(3, 20)
    text = f"{name} has a rectangular {plot}, {length} m long and {width} m wide."
    if rng.random() < 0.5:
        half = solution.step("One long and one short side are {} m.", length, "+", width)
        fence = solution.step("The fence is {} m.", half, "*", 2)
        if rng.random() < 0.5:
            solution.step("It costs {}.", fence, "*", price)
            return f"{text} A fence costs ${price} per m. What does a fence all around cost in dollars?", solution
        return f"{text} How many m of fence go all around it?", solution
    area = solution.step(f"The {plot} has {{}} square m.", length, "*", width)
    side, depth = rng.randint(2, min(6, width)), rng.randint(2, 5)
    text += f" A pond of {side} m by {depth} m lies in it and the rest is grass."
    pond = solution.step("The pond has {} square m.", side, "*", depth)
    grass = solution.step("The grass has {} square m.", area, "-", pond)
    if rng.random() < 0.4:
        solution.step("The seed costs {}.", grass, "*", price)
        return f"{text} Seed costs ${price} per square m. What does seed for the grass cost in dollars?", solution
    return f"{text} How many square m of grass are there?", solution


def growth(rng: Random) -> Draft:
    """A plant that grows at one rate and then another, perhaps cut back."""
    name, plant, solution = rng.choice(NAMES), rng.choice(PLANTS), Solution()
    height, rate, weeks = rng.randint(3, 40), rng.randint(2, 12), rng.randint(2, 9)
    text = f"The {plant} plant of {name} is {height} cm tall. It grows {rate} cm a week for {weeks} weeks"
    gain = solution.step("It grows {} cm.", rate, "*", weeks)
    total = solution.step("It is then {} cm.", height, "+", gain)
    if rng.random() < 0.5:
        rate, weeks = rng.randint(2, 12), rng.randint(2, 9)
        text += f", then {rate} cm a week for {weeks} weeks"
        gain = solution.step("Later it grows {} cm.", rate, "*", weeks)
        total = solution.step("It is then {} cm.", total, "+", gain)
    text += "."
    if rng.random() < 0.5:
        cut = rng.randint(2, total - 2)
        solution.step("After the cut {} cm.", total, "-", cut)
        text += f" Then {name} cuts off {cut} cm."
    return f"{text} How many cm tall is it at the end?", solution


def tickets(rng: Random) -> Draft:
    """Rows of seats, a part of them sold or empty, and what the tickets bring."""
    event, solution = rng.choice(EVENTS), Solution()
    rows, seats, price = rng.randint(4, 20), rng.randint(5, 20), rng.randint(2, 12)
    text = f"A hall for a {event} has {rows} rows of {seats} seats."
    total = solution.step("The hall has {} seats.", rows, "*", seats)
    fractions = [part for part in (2, 3, 4, 5) if total % part == 0]
    if fractions and rng.random() < 0.6:
        part = rng.choice(fractions)
        text += f" One seat in every {part} is empty."
        empty = solution.step("Of these {} are empty.", total, "/", part)
    else:
        empty = rng.randint(2, total // 2)
        text += f" Of these, {empty} seats are empty."
    taken = solution.step("The seats taken are {}.", total, "-", empty)
    if rng.random() < 0.6:
        solution.step("The tickets bring {}.", taken, "*", price)
        return f"{text} Each taken seat costs ${price}. How many dollars do the tickets bring?", solution
    return f"{text} How many seats are taken?", solution


FAMILIES: dict[str, Callable[[Random], Draft]] = {
    "shopping": shopping,
    "travel": travel,
    "sharing": sharing,
    "saving": saving,
    "work": work,
    "ages": ages,
    "recipe": recipe,
    "geometry": geometry,
    "growth": growth,
    "tickets": tickets,
}
