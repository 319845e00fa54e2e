//! The tools there are, and what people ask of them.

use cuvier_encoding::Tool;
use serde_json::{Value, json};

use super::super::super::rng::Rng;
use super::super::super::words::{self, NAMES, NOUNS, PLACES};

/// A tool.
pub(super) struct Entry {
    pub(super) name: &'static str,
    description: &'static str,
    /// JSON schemas by name, and which of them are required.
    parameters: fn() -> (Value, &'static [&'static str]),
    pub(super) request: fn(&mut Rng) -> Request,
}

/// Something that a user wants of a tool.
pub(super) struct Request {
    /// What the user says.
    pub(super) text: String,
    /// What the tool must be called with.
    pub(super) arguments: Value,
    /// What the tool says.
    pub(super) result: Value,
    /// What the assistant says about that.
    pub(super) answer: String,
    /// What the answer must name.
    pub(super) values: Vec<String>,
}

pub(super) const CATALOGUE: [Entry; 6] = [
    Entry {
        name: "get_weather",
        description: "The weather in a city, now",
        parameters: || {
            let unit = json!({ "type": "string", "enum": ["celsius", "fahrenheit"] });
            (json!({ "city": { "type": "string" }, "unit": unit }), &["city"])
        },
        request: weather,
    },
    Entry {
        name: "add_event",
        description: "Puts an event into the calendar",
        parameters: || {
            let hour = json!({ "type": "integer", "description": "0 to 23" });
            let text = json!({ "type": "string" });
            (json!({ "title": text, "day": text, "hour": hour }), &["title", "day", "hour"])
        },
        request: event,
    },
    Entry {
        name: "convert",
        description: "Converts an amount from one unit into another",
        parameters: || {
            let text = json!({ "type": "string" });
            (json!({ "amount": { "type": "number" }, "from": text, "to": text }), &["amount", "from", "to"])
        },
        request: convert,
    },
    Entry {
        name: "set_timer",
        description: "Rings after some minutes",
        parameters: || {
            (json!({ "minutes": { "type": "integer" }, "label": { "type": "string" } }), &["minutes"])
        },
        request: timer,
    },
    Entry {
        name: "search_files",
        description: "Finds files by a word in them",
        parameters: || {
            let flag = json!({ "type": "boolean" });
            (json!({ "word": { "type": "string" }, "match_case": flag }), &["word", "match_case"])
        },
        request: search,
    },
    Entry {
        name: "send_message",
        description: "Sends a message to one or more people",
        parameters: || {
            let people = json!({ "type": "array", "items": { "type": "string" } });
            (json!({ "to": people, "text": { "type": "string" } }), &["to", "text"])
        },
        request: message,
    },
];

impl Entry {
    /// The tool as a client sends it.
    pub(super) fn tool(&self) -> Tool {
        let (properties, required) = (self.parameters)();
        Tool {
            function: json!({
                "name": self.name,
                "description": self.description,
                "parameters": { "type": "object", "properties": properties, "required": required },
            }),
        }
    }
}

fn weather(rng: &mut Rng) -> Request {
    let city = rng.word(&PLACES);
    let sky = rng.word(&["sunny", "cloudy", "rainy", "windy", "foggy", "snowy"]);
    let degrees = rng.within(1..=35).to_string();
    let (text, arguments) = match rng.below(4) {
        0 => (format!("What is the weather in {city}?"), json!({ "city": city })),
        1 => (format!("Is it cold in {city}?"), json!({ "city": city })),
        n => {
            let unit = if n == 2 { "celsius" } else { "fahrenheit" };
            (format!("How warm is it in {city}, in {unit}?"), json!({ "city": city, "unit": unit }))
        }
    };
    let result = json!({ "sky": sky, "degrees": degrees.parse::<u64>().unwrap_or_default() });
    let answer = format!("In {city} it is {sky} at {degrees} degrees.");
    Request { text, arguments, result, answer, values: vec![sky.to_owned(), degrees] }
}

fn event(rng: &mut Rng) -> Request {
    let title =
        format!("{} with {}", rng.pick(&["lunch", "tea", "a walk", "a meeting", "dinner"]), rng.pick(&NAMES));
    let day = rng.word(&["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]);
    let hour = rng.within(7..=21);
    let text = match rng.below(3) {
        0 => format!("Put {title} on {day} at {hour} into my calendar."),
        1 => format!("I have {title} on {day} at {hour}. Please note it."),
        _ => format!("Add an event: {title}, {day}, {hour} o'clock."),
    };
    let number = rng.within(100..=999).to_string();
    Request {
        text,
        arguments: json!({ "title": title, "day": day, "hour": hour }),
        result: json!({ "added": true, "event": number }),
        answer: format!("It is in your calendar as event {number}."),
        values: vec![number],
    }
}

fn convert(rng: &mut Rng) -> Request {
    const UNITS: [[&str; 2]; 5] = [
        ["miles", "kilometres"],
        ["pounds", "kilograms"],
        ["feet", "metres"],
        ["hours", "seconds"],
        ["litres", "pints"],
    ];
    let [from, to] = *rng.pick(&UNITS);
    let (from, to) = if rng.percent(50) { (from, to) } else { (to, from) };
    // Halves are exact in binary and in JSON.
    let amount = rng.within(2..=400) as f64 / 2.0;
    let number = if amount.fract() == 0.0 { json!(amount as u64) } else { json!(amount) };
    let text = match rng.below(3) {
        0 => format!("How many {to} are {number} {from}?"),
        1 => format!("Convert {number} {from} into {to}."),
        _ => format!("What is {number} {from} in {to}?"),
    };
    let converted = rng.within(2..=9999);
    Request {
        text,
        answer: format!("{number} {from} are {converted} {to}."),
        arguments: json!({ "amount": number, "from": from, "to": to }),
        result: json!({ "amount": converted }),
        values: vec![converted.to_string()],
    }
}

fn timer(rng: &mut Rng) -> Request {
    let minutes = rng.within(1..=90);
    let label = rng.word(&["tea", "eggs", "pasta", "bread", "laundry", "oven", "break", "bath"]);
    let (text, arguments) = match rng.below(3) {
        0 => (format!("Set a timer for {minutes} minutes."), json!({ "minutes": minutes })),
        1 => (
            format!("Set a timer called {label} for {minutes} minutes."),
            json!({ "minutes": minutes, "label": label }),
        ),
        _ => (
            format!("Ring in {minutes} minutes and call it {label}."),
            json!({ "minutes": minutes, "label": label }),
        ),
    };
    let at = format!("{}:{}", rng.within(10..=23), rng.within(10..=59));
    Request {
        text,
        arguments,
        result: json!({ "rings_at": at }),
        answer: format!("It will ring at {at}."),
        values: vec![at],
    }
}

fn search(rng: &mut Rng) -> Request {
    let word = rng.word(&NOUNS);
    let match_case = rng.percent(50);
    let how = if match_case { "exactly as written" } else { "in any case" };
    let text = match rng.below(3) {
        0 => format!("Find files with the word {word}, {how}."),
        1 => format!("Search my files for {word}, {how}."),
        _ => format!("Which files contain {word}, {how}?"),
    };
    let file = format!("{}-{}.txt", rng.pick(&words::VALUES), rng.within(1..=99));
    Request {
        text,
        arguments: json!({ "word": word, "match_case": match_case }),
        result: json!({ "files": [file] }),
        answer: format!("There is one: {file}."),
        values: vec![file],
    }
}

fn message(rng: &mut Rng) -> Request {
    let mut people: Vec<String> = vec![rng.word(&NAMES).to_owned()];
    let second = rng.word(&NAMES).to_owned();
    if rng.percent(40) && !people.contains(&second) {
        people.push(second);
    }
    let body = match rng.below(3) {
        0 => format!("The {} is ready.", words::thing(rng)),
        1 => format!("Meet me in {}.", rng.pick(&PLACES)),
        _ => format!("I found the {}.", words::thing(rng)),
    };
    let to = words::listed(&people);
    let text = match rng.below(3) {
        0 => format!("Tell {to}: {body}"),
        1 => format!("Send {to} this message: {body}"),
        _ => format!("Write to {to}: {body}"),
    };
    let number = rng.within(1000..=9999).to_string();
    Request {
        text,
        arguments: json!({ "to": people, "text": body }),
        result: json!({ "sent": true, "message": number }),
        answer: format!("Sent to {to} as message {number}."),
        values: vec![number],
    }
}
