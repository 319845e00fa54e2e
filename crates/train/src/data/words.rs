//! Words, and sentences that mean nothing: what the generators talk about.

use super::rng::Rng;

pub(super) const ADJECTIVES: [&str; 48] = [
    "red", "blue", "green", "yellow", "black", "white", "grey", "brown", "orange", "purple", "silver",
    "golden", "old", "new", "small", "large", "quiet", "loud", "cold", "warm", "bright", "dark", "heavy",
    "light", "round", "flat", "wet", "dry", "fast", "slow", "soft", "hard", "young", "tall", "short", "long",
    "deep", "calm", "busy", "empty", "sweet", "bitter", "rusty", "wooden", "broken", "hidden", "spare",
    "narrow",
];

pub(super) const NOUNS: [&str; 64] = [
    "lantern", "harbour", "kettle", "box", "door", "boat", "house", "garden", "table", "chair", "lamp",
    "book", "letter", "bottle", "cup", "plate", "knife", "clock", "coat", "shoe", "hat", "river", "lake",
    "hill", "forest", "bridge", "road", "train", "ship", "island", "tower", "wall", "window", "roof",
    "kitchen", "school", "market", "shop", "office", "bank", "farm", "field", "stone", "tree", "flower",
    "apple", "bread", "soup", "bird", "horse", "dog", "cat", "whale", "cloud", "star", "drum", "bell",
    "basket", "ladder", "engine", "wheel", "mirror", "barrel", "compass",
];

pub(super) const NAMES: [&str; 32] = [
    "Anna", "Ben", "Clara", "David", "Emma", "Felix", "Greta", "Hugo", "Ida", "Jonas", "Karla", "Leo", "Mia",
    "Noah", "Olga", "Paul", "Rosa", "Sam", "Tina", "Viktor", "Walter", "Yara", "Zoe", "Lena", "Max", "Nora",
    "Oscar", "Peter", "Ruth", "Tom", "Ines", "Karim",
];

pub(super) const PLACES: [&str; 24] = [
    "Oslo", "Lima", "Cairo", "Paris", "Rome", "Berlin", "Madrid", "Tokyo", "Vienna", "Dublin", "Prague",
    "Athens", "Lisbon", "Nairobi", "Quito", "Hanoi", "Bergen", "Porto", "Ghent", "Turin", "Basel", "Krakow",
    "Malmo", "Riga",
];

/// Words that can be the value of something.
pub(super) const VALUES: [&str; 40] = [
    "tiger", "lemon", "castle", "falcon", "marble", "pepper", "ocean", "winter", "copper", "dragon",
    "violet", "rocket", "candle", "meadow", "pirate", "velvet", "thunder", "walnut", "saffron", "pebble",
    "comet", "ginger", "maple", "orchid", "canyon", "breeze", "salmon", "coral", "ember", "willow", "raven",
    "pumpkin", "sparrow", "anchor", "biscuit", "cactus", "domino", "feather", "glacier", "hazel",
];

/// What things and people have.
pub(super) const ATTRIBUTES: [&str; 16] = [
    "code", "number", "password", "price", "label", "size", "weight", "symbol", "nickname", "score", "tag",
    "date", "address", "owner", "colour", "key word",
];

const VERBS: [&str; 20] = [
    "saw",
    "found",
    "lost",
    "painted",
    "carried",
    "moved",
    "sold",
    "bought",
    "cleaned",
    "described",
    "forgot",
    "liked",
    "mended",
    "measured",
    "opened",
    "passed",
    "showed",
    "watched",
    "drew",
    "counted",
];

const TIMES: [&str; 12] = [
    "yesterday",
    "in the morning",
    "before noon",
    "last week",
    "at night",
    "in spring",
    "after the rain",
    "on Monday",
    "twice",
    "once more",
    "without a word",
    "in a hurry",
];

/// `red lantern`.
pub(super) fn thing(rng: &mut Rng) -> String {
    format!("{} {}", rng.pick(&ADJECTIVES), rng.pick(&NOUNS))
}

/// What a value can belong to, in several words: `the code of the red lantern`, `Anna's locker number`.
pub(super) fn key(rng: &mut Rng) -> String {
    let attribute = rng.pick(&ATTRIBUTES);
    match rng.below(3) {
        0 => format!("the {attribute} of the {}", thing(rng)),
        1 => format!("the {attribute} of {}'s {}", rng.pick(&NAMES), rng.pick(&NOUNS)),
        _ => format!("{}'s {} {attribute}", rng.pick(&NAMES), rng.pick(&NOUNS)),
    }
}

/// So many digits, the first not 0.
pub(super) fn digits(rng: &mut Rng, n: u32) -> String {
    let first = 10u64.pow(n - 1);
    rng.within(first..=10 * first - 1).to_string()
}

/// A sentence about nothing in particular.
pub(super) fn filler(rng: &mut Rng) -> String {
    let (name, verb, time) = (*rng.pick(&NAMES), *rng.pick(&VERBS), *rng.pick(&TIMES));
    match rng.below(6) {
        0 => format!("{name} {verb} the {} {time}.", thing(rng)),
        1 => format!("The {} stood near the {}.", thing(rng), rng.pick(&NOUNS)),
        2 => format!("{name} and {} talked about the {}.", rng.pick(&NAMES), thing(rng)),
        3 => format!("There is {} behind the {}.", one(&thing(rng)), thing(rng)),
        4 => {
            let (place, thing, noun) = (*rng.pick(&PLACES), thing(rng), *rng.pick(&NOUNS));
            format!("In {place} {name} {verb} {} and {}.", one(&thing), one(noun))
        }
        _ => format!("Nobody {verb} the {} {time}, but {name} did.", thing(rng)),
    }
}

/// `a lantern`, `an old lantern`.
fn one(thing: &str) -> String {
    let article = if thing.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {thing}")
}

/// The text with its first letter large.
pub(super) fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// `a`, `a and b`, `a, b and c`.
pub(super) fn listed(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}
